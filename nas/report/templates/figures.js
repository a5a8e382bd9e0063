"use strict";

// Draws the figures of a page when they come into view, in the colours that the reader's setting asks for.
const Figures = (() => {
  const read = id => document.getElementById(id).textContent;
  const forDark = new Map(Object.entries(JSON.parse(read("colours"))));
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isTouched = matchMedia("(pointer: coarse)");
  const hidden = new Map(); // "figure/trace" -> whether the reader has hidden this trace
  const prepared = []; // functions that change a figure before it is drawn
  const followed = []; // functions that are called with each place where a figure was drawn first
  let figures = parsed();

  function parsed() {
    const swap = (key, value) => (dark.matches && forDark.get(value)) || value;
    return JSON.parse(read("figures"), swap);
  }

  function draw(place) {
    const name = place.dataset.figure;
    const figure = figures[name];
    prepared.forEach(change => change(figure));
    figure.data.forEach((trace, index) => {
      const isHidden = hidden.get(`${name}/${index}`) ?? trace.visible === "legendonly";
      hidden.set(`${name}/${index}`, isHidden);
      trace.visible = !isHidden;
    });
    const layout = { ...figure.layout, dragmode: isTouched.matches ? false : "zoom" };
    const config = { responsive: true, displaylogo: false, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] };
    Plotly.react(place, figure.data, layout, config);
    if (!place.dataset.drawn) {
      place.dataset.drawn = "yes";
      followed.forEach(follow => follow(place));
    }
    list(place, figure);
  }

  // A box for each trace shows or hides it; it is the legend as well, and the keyboard reaches it.
  function list(place, figure) {
    const name = place.dataset.figure;
    const boxes = document.querySelector(`[data-layers="${name}"]`);
    boxes.querySelectorAll("label").forEach(label => label.remove());
    if (figure.data.length < 2) return;
    figure.data.forEach((trace, index) => {
      const label = document.createElement("label");
      const box = document.createElement("input");
      box.type = "checkbox";
      box.checked = !hidden.get(`${name}/${index}`);
      box.addEventListener("change", () => {
        hidden.set(`${name}/${index}`, !box.checked);
        Plotly.restyle(place, { visible: box.checked }, [index]);
      });
      label.append(box, swatch(trace), unescaped(trace.name));
      boxes.append(label);
    });
  }

  // Names in figures are escaped, as Plotly reads tags in them.
  function unescaped(name) {
    return name.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");
  }

  const SHAPES = {
    "circle": "M8 3a5 5 0 1 0 .01 0z", "square": "M4 4h8v8h-8z", "triangle-up": "M8 3l5 9h-10z",
    "cross": "M6 3h4v3h3v4h-3v3h-4v-3h-3v-4h3z", "diamond": "M8 2l5 6-5 6-5-6z",
    "star": "M8 1l2 5h5l-4 3.5 1.5 5-4.5-3-4.5 3 1.5-5-4-3.5h5z", "line": "M1 8h14", "bar": "M2 4h12v8h-12z",
  };

  function swatch(trace) {
    const isLine = trace.mode === "lines";
    const symbol = isLine ? "line" : trace.type === "bar" ? "bar" : trace.marker.symbol ?? "circle";
    const marker = isLine ? trace.line : trace.marker;
    const isOpen = symbol.endsWith("-open") || Boolean(marker.line);
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    svg.setAttribute("viewBox", "0 0 16 16");
    svg.setAttribute("aria-hidden", "true");
    path.setAttribute("d", SHAPES[symbol.replace("-open", "")] ?? SHAPES.circle);
    path.setAttribute("fill", isOpen || isLine ? "none" : marker.color);
    path.setAttribute("fill-opacity", marker.opacity ?? 1);
    path.setAttribute("stroke", marker.line?.color ?? marker.color);
    path.setAttribute("stroke-dasharray", isLine && marker.dash && marker.dash !== "solid" ? "3 2" : "none");
    path.setAttribute("stroke-width", isLine || isOpen ? 2 : 0);
    svg.append(path);
    return svg;
  }

  const places = [...document.querySelectorAll("[data-figure]")];
  const sight = new IntersectionObserver(entries => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting) {
        sight.unobserve(target);
        draw(target);
      }
    }
  }, { rootMargin: "200px" });

  dark.addEventListener("change", () => {
    figures = parsed();
    places.filter(place => place.dataset.drawn).forEach(draw);
  });

  return {
    prepare: change => prepared.push(change),
    follow: follow => followed.push(follow),
    start: () => places.forEach(place => sight.observe(place)),
  };
})();
