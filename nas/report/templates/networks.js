"use strict";

// What a report knows of its networks, each called by its number: layers, sizes, JSON, and all of that in words.
const Networks = (() => {
  const { networks, candidates, fits, runs, published } = JSON.parse(document.getElementById("networks").textContent);
  const { of_layers: ofLayers, some } = networks;

  const label = n => some.name[n] ?? networks.id[n];
  const role = n => networks.roles[networks.role[n]];
  const runOf = n => runs.findLast(run => run.first <= n && n < run.first + run.count) ?? runs[0];

  // Layers as [{ layer, count, part }]: `part` is stem, stage 1 to stage 4, or head.
  function layersOf(n) {
    let stage = 1;
    return networks.layers[n].split(" ").map(token => {
      const [layer, count] = token.split("x").map(Number);
      const kind = ofLayers.kind[layer];
      if (kind === "downsample") stage += 1;
      const part = kind === "stem" || kind === "head" ? kind : `stage ${stage}`;
      return { layer, count: count || 1, part };
    });
  }

  const sum = (n, column) => layersOf(n).reduce((total, one) => total + one.count * ofLayers[column][one.layer], 0);
  const memory = n => Math.max(...layersOf(n).map(one => ofLayers.memory[one.layer]));

  // Blocks of the four stages: [{ channels, size, blocks: [{ layer, count }] }].
  function stagesOf(n) {
    const stages = [];
    for (const one of layersOf(n)) {
      if (!one.part.startsWith("stage")) continue;
      const index = Number(one.part.slice(6)) - 1;
      stages[index] ??= { blocks: [] };
      if (ofLayers.kind[one.layer] === "downsample") continue;
      stages[index].channels = ofLayers.channels[one.layer];
      stages[index].size = ofLayers.size[one.layer];
      stages[index].blocks.push(one);
    }
    return stages;
  }

  function summary(n) {
    const stages = stagesOf(n);
    const blocks = stages.map(stage => {
      const runs = [];
      for (const { layer, count } of stage.blocks) {
        const letter = ofLayers.kind[layer] === "conv" ? "C" : "A";
        if (runs.at(-1)?.letter === letter) runs.at(-1).count += count;
        else runs.push({ letter, count });
      }
      return runs.map(run => `${run.count}${run.letter}`).join(" ");
    });
    return `${stages.map(stage => stage.channels).join("-")}: ${blocks.join(" | ")}`;
  }

  // The JSON form of an architecture, as the command line reads it.
  function architecture(n) {
    const layers = layersOf(n);
    const part = one => ofLayers.parts[ofLayers.part[one.layer]];
    const first = kind => layers.find(one => ofLayers.kind[one.layer] === kind);
    return {
      schema: 1,
      resolution: ofLayers.size[first("stem").layer],
      num_classes: part(first("head")).num_classes,
      stem: part(first("stem")),
      downsample: part(first("downsample")),
      ...(some.layer_scale[n] ? { layer_scale: some.layer_scale[n] } : {}),
      stages: stagesOf(n).map(stage => ({
        channels: stage.channels,
        blocks: stage.blocks.flatMap(one => Array(one.count).fill(part(one))),
      })),
    };
  }

  // Whole commands for a shell. A network that no folder names is written to a file first.
  function commands(n) {
    const run = runOf(n);
    const own = run.winners[n];
    const network = own ?? "network.json";
    const formats = run.formats.filter(format => (fits[format]?.[n] ?? "1") === "1");
    const exports = formats.map(format => `nas export ${network} --format ${format}`);
    if (own != null) return exports;
    const file = `cat > ${network} <<'END'\n${JSON.stringify(architecture(n))}\nEND`;
    return [file, ...exports, `nas latency ${network} --table ${run.quoted_table}`];
  }

  const fixed = (value, digits) => (value == null ? "–" : value.toFixed(digits));
  const scoreDigits = n => (runOf(n).percent ? 1 : 4);
  const score = n => fixed(networks.score[n], scoreDigits(n));
  const interval = (low, high, digits) => (low == null || high == null ? "" : ` [${fixed(low, digits)}, ${fixed(high, digits)}]`);
  const latencyWords = n => `${fixed(networks.ms[n], 3)}${interval(networks.ms_low[n], networks.ms_high[n], 3)}`;
  const scoreWords = n => `${score(n)}${interval(networks.score_low[n], networks.score_high[n], scoreDigits(n))}`;
  const signed = (value, digits) => {
    const text = Math.abs(value).toFixed(digits);
    return Number(text) === 0 ? text : `${value < 0 ? "−" : "+"}${text}`;
  };

  // A count with three digits and a prefix: 1640000000 is 1.64 G.
  function si(value) {
    const [factor, prefix] = [[1e9, " G"], [1e6, " M"], [1e3, " k"], [1, ""]].find(([unit]) => value >= unit) ?? [1, ""];
    return `${(value / factor).toPrecision(3)}${prefix}`;
  }

  const times = count => (count > 1 ? `${count} × ` : "");

  const KINDS = { shma: "single-head modulation attention", sha: "single-head attention", mha: "multi-head attention" };

  function layerWords(layer) {
    const part = ofLayers.parts[ofLayers.part[layer]];
    const kernel = `${part.kernel}×${part.kernel}`;
    switch (ofLayers.kind[layer]) {
      case "stem": return `stem ${kernel}, expansion ${part.expansion}`;
      case "downsample": return `downsampling ${kernel} to ${ofLayers.channels[layer]} channels`;
      case "conv": return `convolution ${kernel}, expansion ${part.expansion}`;
      case "head": return `pooling and classifier, ${part.num_classes} classes`;
      default: return [
        `${KINDS[part.attention]}, R ${part.query_reduction}, m ${part.modulation}, expansion ${part.expansion}`,
        part.position_kernel ? `, position ${part.position_kernel}×${part.position_kernel}` : "",
        part.heads ? `, ${part.heads} heads` : "",
        part.window ? `, window ${part.window}` : "",
      ].join("");
    }
  }

  return {
    all: networks, ofLayers, some, candidates, runs, published,
    label, role, runOf, layersOf, stagesOf, sum, memory, summary, architecture, commands,
    scoreDigits, scoreWords, latencyWords, signed, si, times, layerWords,
  };
})();
