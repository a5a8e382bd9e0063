"use strict";

// What a reader does with a report: two networks side by side, the table of all candidates, points of the figures.
(() => {
  const {
    all: networks, ofLayers, some, candidates, runs, published,
    label, role, runOf, layersOf, stagesOf, sum, memory, summary, architecture, commands,
    scoreDigits, scoreWords, latencyWords, signed, si, times, layerWords,
  } = Networks;
  const PAGE = 50; // rows of the table
  const byId = id => document.getElementById(id);
  const made = (tag, text = "", attributes = {}) => {
    const node = document.createElement(tag);
    if (text !== "") node.append(text);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  };

  // --- Two networks side by side ---

  const shown = { left: null, right: null };

  function open(n, side = "left", isAsked = true) {
    shown[side] = n;
    for (const each of ["left", "right"]) choose(each);
    const pair = ["left", "right"].map(each => shown[each]).filter(each => each != null);
    const slowest = Math.max(...pair.flatMap(each => layersOf(each).map(one => one.count * (ofLayers.ms[one.layer] ?? 0))));
    byId("cards").replaceChildren(...pair.map(each => card(each, slowest)));
    compare();
    if (isAsked) {
      byId("network-title").scrollIntoView({ block: "start" });
      byId("network-title").focus({ preventScroll: true });
    }
  }

  // The choice of known networks, and the one that is shown.
  function choose(side) {
    const select = byId(`choose-${side}`);
    const known = [...networks.id.keys()].filter(n => ["winner", "reference", "published"].includes(role(n)));
    const chosen = shown[side];
    const options = chosen == null || known.includes(chosen) ? known : [chosen, ...known];
    select.replaceChildren(...options.map(n => {
      const option = made("option", `${label(n)} (${role(n)})`, { value: n });
      option.selected = n === chosen;
      return option;
    }));
  }

  function facts(n) {
    const run = runOf(n);
    const isCandidate = n < candidates;
    const rows = [["id", networks.id[n]], ["role", role(n) + (runs.length > 1 && isCandidate ? `, ${run.name}` : "")]];
    if (networks.ms[n] != null) rows.push(["latency, ms", `${latencyWords(n)} predicted by ${run.table} (${run.source})`]);
    if (networks.score[n] != null) rows.push([run.unit, `${scoreWords(n)}${networks.score_low[n] == null ? "" : `, ${run.interval}`}`]);
    const printed = Object.hasOwn(published, some.name[n] ?? "") && published[some.name[n]];
    if (printed) rows.push(["published", `${printed[0]} ms, ImageNet top-1 ${printed[1]} % (${printed[2]})`]);
    for (const { name, values } of isCandidate ? run.further : []) {
      if (values[n - run.first] != null) rows.push([name, String(values[n - run.first])]);
    }
    rows.push(["parameters", si(sum(n, "params"))], ["MACs", si(sum(n, "macs"))]);
    rows.push(["activation memory, fp16", `${si(memory(n))}B at its peak`], ["blocks", summary(n)]);
    if (some.failure[n]) rows.push(["failed", some.failure[n]]);
    return rows;
  }

  // `slowest`: what the longest bar of latency stands for, in ms; equal in both cards.
  function card(n, slowest) {
    const node = byId("card").content.firstElementChild.cloneNode(true);
    const of = name => node.querySelector(`[data-${name}]`);
    const run = runOf(n);
    of("name").append(label(n));
    of("facts").append(...facts(n).map(([name, value]) => {
      const row = made("div");
      row.append(made("dt", name), made("dd", value));
      return row;
    }));
    of("layers").append(...layerRows(n, slowest));
    of("why").append(run.why_no_layers && networks.ms[n] != null ? `No latency per layer: ${run.why_no_layers}.` : "");
    const text = JSON.stringify(architecture(n), null, 1);
    of("json").append(text);
    of("how").append("For a shell; of the formats, take the one that you need:");
    of("commands").append(commands(n).join("\n"));
    of("copy").addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text);
        of("copied").textContent = "copied";
      } catch {
        of("copied").textContent = "not allowed here: select the text below";
        node.querySelector("details").open = true;
      }
    });
    return node;
  }

  // A group of rows for each part of the network; the blocks of a stage are drawn in its heading.
  function layerRows(n, slowest) {
    const layers = layersOf(n);
    const stages = stagesOf(n);
    const widest = Math.max(...stages.map(stage => stage.channels));
    return [...new Set(layers.map(one => one.part))].map(part => {
      const group = made("tbody");
      const stage = stages[Number(part.slice(6)) - 1];
      const heading = made("th", part, { colspan: 5, scope: "rowgroup" });
      if (stage) heading.append(`: ${stage.channels} channels, ${stage.size}×${stage.size}`, drawing(stage, widest));
      group.append(made("tr"));
      group.firstChild.append(heading);
      for (const { layer, count } of layers.filter(one => one.part === part)) {
        const ms = ofLayers.ms[layer];
        const row = made("tr");
        const cell = (value, isMinor) => made("td", value, { class: isMinor ? "number minor" : "number" });
        row.append(made("td", `${times(count)}${layerWords(layer)}`));
        row.append(cell(si(count * ofLayers.params[layer]), true), cell(si(count * ofLayers.macs[layer]), true));
        row.append(cell(ms == null ? "–" : `${(count * ms).toFixed(3)}${ofLayers.filled[layer] ? " filled in" : ""}`));
        const bar = made("span", "", { class: `bar ${ofLayers.kind[layer]}` });
        bar.style.width = ms == null ? "0" : `${(100 * count * ms) / slowest}%`;
        row.append(made("td", bar, { class: "wide" }));
        group.append(row);
      }
      return group;
    });
  }

  // A box for each block, as high as its stage is wide.
  function drawing(stage, widest) {
    const boxes = made("span", "", { class: "blocks", "aria-hidden": "true" });
    for (const { layer, count } of stage.blocks) {
      for (let block = 0; block < count; block += 1) {
        const kind = ofLayers.kind[layer];
        const box = made("span", kind === "conv" ? "C" : "A", { class: kind, title: layerWords(layer) });
        box.style.height = `${1.1 + (1.3 * stage.channels) / widest}em`;
        boxes.append(box);
      }
    }
    return boxes;
  }

  // --- Why one is faster ---

  function compare() {
    const { left, right } = shown;
    const isPair = left != null && right != null && left !== right;
    byId("differences").parentElement.hidden = !isPair;
    byId("comparison").textContent = isPair ? verdict(left, right) : "";
    if (!isPair) return;
    byId("left-name").textContent = label(left);
    byId("right-name").textContent = label(right);
    const rows = differences(left, right);
    const body = byId("differences").tBodies[0];
    body.replaceChildren(...rows.map(({ part, mine, theirs, ms }) => {
      const row = made("tr");
      row.append(made("th", part, { scope: "row" }));
      row.append(made("td", ms == null ? "–" : `${signed(ms, 3)} ms`, { class: "number" }));
      row.append(lines(mine), lines(theirs));
      return row;
    }));
    if (rows.length === 0) body.append(made("tr", made("td", "none", { colspan: 4 })));
  }

  function lines(texts) {
    const cell = made("td");
    cell.append(...(texts.length ? texts.map(text => made("div", text)) : ["–"]));
    return cell;
  }

  // For each part that differs: the layers that only one of both has, and the difference in ms.
  function differences(left, right) {
    const parts = ["stem", "stage 1", "stage 2", "stage 3", "stage 4", "head"];
    const counted = n => {
      const counts = new Map();
      for (const { layer, count, part } of layersOf(n)) {
        const key = `${part}/${layerKey(layer)}`;
        const known = counts.get(key) ?? { part, layer, count: 0 };
        counts.set(key, { ...known, count: known.count + count });
      }
      return counts;
    };
    const [mine, theirs] = [counted(left), counted(right)];
    const only = (some, others, part) => [...some].filter(([, one]) => one.part === part)
      .map(([key, one]) => ({ ...one, count: one.count - (others.get(key)?.count ?? 0) })).filter(one => one.count > 0);
    return parts.flatMap(part => {
      const [a, b] = [only(mine, theirs, part), only(theirs, mine, part)];
      if (!a.length && !b.length) return [];
      const isKnown = [...a, ...b].every(one => ofLayers.ms[one.layer] != null);
      const total = some => some.reduce((ms, one) => ms + one.count * ofLayers.ms[one.layer], 0);
      const words = some => some.map(one => {
        const ms = ofLayers.ms[one.layer];
        const width = ofLayers.kind[one.layer] === "downsample" ? "" : `, ${ofLayers.channels[one.layer]} channels`;
        return `${times(one.count)}${layerWords(one.layer)}${width}${ms == null ? "" : `: ${(one.count * ms).toFixed(3)} ms`}`;
      });
      return [{ part, mine: words(a), theirs: words(b), ms: isKnown ? total(a) - total(b) : null }];
    });
  }

  // Layers of two tables can be the same layer.
  const layerKey = layer => ["kind", "channels", "size", "part"].map(column => ofLayers[column][layer]).join();

  function verdict(left, right) {
    const words = [];
    if (networks.ms[left] != null && networks.ms[right] != null && runOf(left).table === runOf(right).table) {
      const ms = networks.ms[left] - networks.ms[right];
      const share = Math.abs(100 * ms) / networks.ms[right];
      words.push(`${label(left)} is ${Math.abs(ms).toFixed(3)} ms (${share.toFixed(1)} %) ${ms < 0 ? "faster" : "slower"} than ${label(right)} by prediction`);
    }
    const hasScores = networks.score[left] != null && networks.score[right] != null;
    if (hasScores && runOf(left).axis === runOf(right).axis) {
      const gain = networks.score[left] - networks.score[right];
      const isApart = networks.score_low[left] > networks.score_high[right] || networks.score_high[left] < networks.score_low[right];
      const known = networks.score_low[left] != null && networks.score_low[right] != null;
      const doubt = !known ? "" : isApart ? "; the intervals do not overlap" : "; the intervals overlap, so neither is shown to be better";
      words.push(`its score differs by ${signed(gain, scoreDigits(left))}${runOf(left).percent ? " points" : ""}${doubt}`);
    } else if (hasScores) {
      words.push("their scores cannot be compared");
    }
    return words.length ? `${words.join(", and ")}.` : "";
  }

  // --- The table of candidates ---

  const further = [...new Set(runs.flatMap(run => run.further.map(one => one.name)))];
  const furtherOf = (n, name) => {
    const run = runOf(n);
    return run.further.find(one => one.name === name)?.values[n - run.first] ?? null;
  };
  const COLUMNS = [
    { name: "network", value: label },
    ...(runs.length > 1 ? [{ name: "run", value: n => runOf(n).name }] : []),
    { name: "role", value: role },
    { name: "latency, ms", value: n => networks.ms[n], words: latencyWords },
    { name: runs.length > 1 ? "score" : runs[0].unit, value: n => networks.score[n], words: scoreWords, isFalling: true },
    ...further.map(name => ({ name, value: n => furtherOf(n, name), isFalling: true })),
    { name: "parameters", value: n => sum(n, "params"), words: n => si(sum(n, "params")) },
    { name: "MACs", value: n => sum(n, "macs"), words: n => si(sum(n, "macs")) },
    { name: "memory", value: memory, words: n => `${si(memory(n))}B` },
    { name: "blocks", value: summary },
  ];
  const order = { column: COLUMNS.find(column => column.words === scoreWords), isFalling: true };
  const sorted = new Map(); // column -> its values, computed once
  let [place, found] = [0, []];

  const valuesOf = column => {
    if (!sorted.has(column)) sorted.set(column, Array.from({ length: candidates }, (_, n) => column.value(n)));
    return sorted.get(column);
  };

  function find() {
    const wanted = byId("filter").value.trim().toLowerCase();
    const wantedRole = byId("role").value;
    const hasText = n => [label(n), networks.id[n], role(n), valuesOf(COLUMNS.at(-1))[n]].some(text => text.toLowerCase().includes(wanted));
    found = [...Array(candidates).keys()].filter(n => (!wantedRole || role(n) === wantedRole) && (!wanted || hasText(n)));
    const values = valuesOf(order.column);
    const sign = order.isFalling ? -1 : 1;
    // What is not known comes last in both directions.
    found.sort((a, b) => {
      const [x, y] = [values[a], values[b]];
      if (x == null || y == null) return (x == null) - (y == null);
      return sign * (typeof x === "string" ? x.localeCompare(y) : x - y);
    });
    place = 0;
    list();
  }

  function list() {
    const rows = found.slice(place, place + PAGE);
    byId("candidates").tBodies[0].replaceChildren(...rows.map(tableRow));
    byId("found").textContent = `${found.length.toLocaleString("en")} of ${candidates.toLocaleString("en")} networks`;
    byId("place").textContent = found.length ? `${place + 1} to ${place + rows.length}` : "none";
    byId("earlier").disabled = place === 0;
    byId("later").disabled = place + PAGE >= found.length;
    document.querySelectorAll("#candidates th").forEach((cell, index) => {
      const isOrder = COLUMNS[index] === order.column;
      cell.setAttribute("aria-sort", isOrder ? (order.isFalling ? "descending" : "ascending") : "none");
    });
  }

  function tableRow(n) {
    const row = made("tr", "", { class: role(n).replace(" ", "-") });
    row.addEventListener("click", event => open(n, event.shiftKey ? "right" : "left"));
    for (const column of COLUMNS) {
      const value = column.value(n);
      const text = value == null ? "–" : column.words ? column.words(n) : String(value);
      if (column.value === label) {
        const button = made("button", text, { type: "button", class: "link", title: "Open; with Shift beside the other" });
        row.append(made("th", button, { scope: "row" }));
      } else {
        row.append(made("td", text, typeof value === "number" ? { class: "number" } : {}));
      }
    }
    return row;
  }

  function start() {
    const header = byId("candidates").tHead.rows[0];
    for (const column of COLUMNS) {
      const button = made("button", column.name, { type: "button", class: "sort" });
      button.addEventListener("click", () => {
        order.isFalling = order.column === column ? !order.isFalling : Boolean(column.isFalling);
        order.column = column;
        find();
      });
      header.append(made("th", button, { scope: "col" }));
    }
    const roles = new Set(Array.from({ length: candidates }, (_, n) => role(n)));
    byId("role").append(...networks.roles.filter(one => roles.has(one)).map(one => made("option", one, { value: one })));
    byId("filter").addEventListener("input", find);
    byId("role").addEventListener("change", find);
    for (const [id, step] of [["earlier", -PAGE], ["later", PAGE]]) {
      byId(id).addEventListener("click", () => { place += step; list(); });
    }
    for (const side of ["left", "right"]) {
      byId(`choose-${side}`).addEventListener("change", event => open(Number(event.target.value), side, false));
    }
    byId("swap").addEventListener("click", () => {
      [shown.left, shown.right] = [shown.right, shown.left];
      open(shown.left, "left", false);
    });
    find();
    openFirst();
  }

  // At first the winner beside iFormer-M, or else beside the slowest reference.
  function openFirst() {
    const all = [...networks.id.keys()];
    const winner = runs[0].winner ?? all.find(n => n < candidates);
    const references = all.filter(n => ["reference", "published"].includes(role(n)) && n !== winner);
    const slowest = references.filter(n => role(n) === "reference").sort((a, b) => networks.ms[b] - networks.ms[a])[0];
    shown.right = references.find(n => label(n) === "iformer_m") ?? slowest ?? null;
    if (winner != null) open(winner, "left", false);
    else compare();
  }

  // --- The figures know the networks ---

  const escaped = text => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

  Figures.prepare(figure => {
    for (const trace of figure.data) {
      if (!trace.customdata || trace.ids) continue;
      trace.hoverinfo = "text";
      trace.hovertext = trace.customdata.map(n => `<b>${escaped(label(n))}</b> ${role(n)}<br>${latencyWords(n)} ms<br>${escaped(runOf(n).unit)}: ${scoreWords(n)}`);
    }
  });
  Figures.follow(place => place.on("plotly_click", ({ event, points }) => {
    const n = points[0].customdata;
    if (n != null) open(n, event.shiftKey ? "right" : "left");
  }));

  start();
})();
