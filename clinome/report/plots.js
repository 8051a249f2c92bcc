// The plots, drawn one after another from the JSON in the page; drawn again when the page turns dark, light or to paper.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const escaped = (text) => String(text ?? "–").replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const raised = (n) => String(n).replace(/-/g, "⁻").replace(/\d/g, (d) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[d]);
const commas = (n) => n.toLocaleString("en-US");
function pValue(negLog) {
  if (negLog < 3) return (10 ** -negLog).toPrecision(2);
  const exponent = Math.ceil(negLog), mantissa = (10 ** (exponent - negLog)).toFixed(0);
  return mantissa === "10" ? `1×10${raised(1 - exponent)}` : `${mantissa}×10${raised(-exponent)}`;
}

// ---- colours come from the style sheet -------------------------------------------------------------------------------
const probe = document.body.appendChild(document.createElement("i"));
probe.hidden = true;
function colour(name, opacity = 1) {
  probe.style.color = `var(--${name})`;
  const [r, g, b] = getComputedStyle(probe).color.match(/[\d.]+/g);
  return `rgba(${r},${g},${b},${opacity})`;
}
const shortened = (text, most = 26) => text.length > most ? `${text.slice(0, most - 1)}…` : text;
const sans = () => getComputedStyle(document.body).fontFamily;

// On paper a plot is as wide as its place there, at once: the browser does not wait for it to notice.
function layout(element, extra) {
  const axis = { gridcolor: colour("grid"), linecolor: colour("muted"), zeroline: false, ticks: "outside", ticklen: 4, tickcolor: colour("muted"), automargin: true };
  const size = root.classList.contains("printing") ? { width: element.clientWidth } : { autosize: true };
  return {
    ...size, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { family: sans(), size: 12, color: colour("ink") },
    margin: { l: 56, r: 14, t: 12, b: 46 }, showlegend: false, hovermode: "closest", dragmode: "zoom",
    hoverlabel: { bgcolor: colour("paper"), bordercolor: colour("muted"), font: { family: sans(), size: 12, color: colour("ink") }, align: "left" },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("muted"), activecolor: colour("accent") },
    ...extra, xaxis: { ...axis, showgrid: false, ...extra.xaxis }, yaxis: { ...axis, ...extra.yaxis },
  };
}
// Plotly's own buttons hold one that uploads the chart; these are all that a page about patients offers.
const buttons = ["toImage", "zoom2d", "pan2d", "resetScale2d"];
const options = { responsive: true, displaylogo: false, showTips: false, doubleClick: "reset", modeBarButtons: [buttons], toImageButtonOptions: { format: "svg" } };
const negLogTitle = { text: "−log<sub>10</sub> p", standoff: 8 };
const line = (value, name = "") => value == null ? [] : [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: value, y1: value, layer: "above", name,
  line: { color: colour("hit"), width: 1.2, dash: "dash" } }];

// ---- Manhattan -------------------------------------------------------------------------------------------------------
let view = 0;
const manhattan = data.manhattan && (() => {
  const { variants, words, chromosomes, views, labels, span } = data.manhattan;
  const x = variants.position.map((position, i) => chromosomes[variants.chromosome[i]].start + position);
  const points = views.map((each) => { let at = 0; return each.points.map((step) => (at += step)); });
  const identifier = (i) => {
    if (variants.id[i]) return variants.id[i];
    const [other, effect] = words.alleles[variants.alleles[i]].split(">");
    return [words.chromosome[variants.chromosome[i]], variants.position[i], other, effect].join(":");
  };
  const place = new Map(x.map((at, i) => [`${at} ${identifier(i)}`, i]));
  const named = labels.map((label) => ({ ...label, point: place.get(`${label.x} ${label.id}`) })).filter((label) => label.point !== undefined);

  function hover(i) {
    const [other, effect] = words.alleles[variants.alleles[i]].split(">");
    const frequency = variants.frequency[i] === null ? "" : `, EAF ${variants.frequency[i].toFixed(3)}`;
    const evidence = views.filter((each) => variants[each.key][i] !== null).map((each) => {
      const value = variants[each.key][i];
      const trait = each.key === "best" && variants.best_trait[i] !== null ? ` (${escaped(words.best_trait[variants.best_trait[i]])})` : "";
      return `${each.name}${trait}: ${value.toFixed(1)}, p = ${pValue(value)}`;
    });
    return [`<b>${escaped(identifier(i))}</b>`, `${escaped(words.chromosome[variants.chromosome[i]])}:${commas(variants.position[i])}`,
      `effect ${escaped(effect)}, other ${escaped(other)}${frequency}`, ...evidence].join("<br>");
  }

  // Numbers of chromosomes while much of the genome is in view, megabases once one chromosome fills it.
  function ticks(from, to, width) {
    const shown = chromosomes.filter((c) => c.start < to && c.start + c.length > from);
    const wide = shown.filter((c) => Math.min(to, c.start + c.length) - Math.max(from, c.start) > 0.85 * (to - from));
    if (wide.length === 1 && to - from < span / Math.max(2, chromosomes.length / 2) || shown.length === 1 && chromosomes.length > 1) {
      const only = wide[0] ?? shown[0];
      const rough = (to - from) / 6e6, power = 10 ** Math.floor(Math.log10(rough));
      const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
      const at = [];
      for (let mb = Math.ceil(Math.max(0, from - only.start) / 1e6 / step) * step; mb * 1e6 <= to - only.start; mb += step) at.push(mb);
      return { tickvals: at.map((mb) => only.start + mb * 1e6), ticktext: at.map((mb) => String(+mb.toFixed(6))), title: { text: `Chromosome ${escaped(only.name)}, Mb` } };
    }
    let last = -Infinity;
    const kept = shown.filter((c) => {
      const at = (c.start + c.length / 2 - from) / (to - from) * width, need = 7 * c.name.length + 8;
      if (at - need / 2 < last) return false;
      last = at + need / 2;
      return true;
    });
    return { tickvals: kept.map((c) => c.start + c.length / 2), ticktext: kept.map((c) => escaped(c.name)), title: { text: "Chromosome" } };
  }

  // Names of lead variants: strongest first; one that would lie on another is raised, then shortened, then left out.
  function annotations(key, range, high, width, height) {
    const boxes = [], made = [];
    for (const label of named) {
      const value = variants[key][label.point];
      if (value === null || label.x < range[0] || label.x > range[1]) continue;
      const left = (label.x - range[0]) / (range[1] - range[0]) * width, y = value / high * height;
      const number = String(label.locus), full = label.gene ? `${number} <i>${escaped(label.gene)}</i>` : number;
      const letters = label.gene ? number.length + label.gene.length + 1 : number.length;
      const tries = [16, 32, 48].map((up) => [full, letters, up]).concat([[number, number.length, 16], [number, number.length, 32]]);
      for (const [text, size, up] of tries) {
        const box = [left - size * 3.7 - 4, left + size * 3.7 + 4, y + up - 8, y + up + 8];
        if (boxes.some((b) => b[0] < box[1] && box[0] < b[1] && b[2] < box[3] && box[2] < b[3])) continue;
        boxes.push(box, [left - 5, left + 5, y - 5, y + 5]);
        made.push({ x: label.x, y: value, text, ax: 0, ay: -up, arrowwidth: 0.8, arrowhead: 0, arrowcolor: colour("muted"), standoff: 5, captureevents: true,
          name: number, font: { size: 12, color: colour("ink") }, bgcolor: colour("paper", 0.75), borderpad: 1 });
        break;
      }
    }
    return made;
  }

  const element = document.getElementById("plot-manhattan");
  let range = [0, span];
  const yTop = ({ largest, line: limit }) => 1.12 * Math.max(largest, limit ?? 0, 5);  // room for the names
  function draw() {
    const { key, line: limit } = views[view];
    const groups = [[], [], []];
    for (const i of points[view]) groups[limit != null && variants[key][i] >= limit ? 2 : variants.chromosome[i] % 2].push(i);
    const top = yTop(views[view]);
    const width = element.clientWidth - 70, height = element.clientHeight - 58;
    const trace = (group, name, size) => ({ type: "scatter", mode: "markers", x: group.map((i) => x[i]), y: group.map((i) => variants[key][i]), text: group.map(hover),
      customdata: group, hovertemplate: "%{text}<extra></extra>", marker: { color: colour(name), size } });
    const leads = named.filter((label) => variants[key][label.point] !== null).map((label) => label.point);
    const traces = [trace(groups[0], "chromosome-a", 4), trace(groups[1], "chromosome-b", 4), trace(groups[2], "hit", 5.5),
      { ...trace(leads, "lead", 8), marker: { color: colour("lead"), size: 8.5, symbol: "diamond", line: { color: colour("paper"), width: 1 } } }];
    return Plotly.react(element, traces, layout(element, {
      xaxis: { range, ...ticks(range[0], range[1], width), maxallowed: span * 1.004, minallowed: 0 }, shapes: line(limit),
      yaxis: { range: [0, top], title: negLogTitle, minallowed: 0 }, annotations: annotations(key, range, top, width, height), uirevision: view,
    }), options);
  }
  // After a zoom: other ticks, other names.
  function zoomed(to) {
    range = to;
    const [low, high] = element.layout.yaxis.range;
    const { tickvals, ticktext, title } = ticks(range[0], range[1], element.clientWidth - 70);
    return Plotly.relayout(element, { "xaxis.tickvals": tickvals, "xaxis.ticktext": ticktext, "xaxis.title.text": title.text,
      annotations: annotations(views[view].key, range, high - low, element.clientWidth - 70, element.clientHeight - 58) });
  }
  const home = () => Plotly.relayout(element, { "xaxis.range": [0, span], "yaxis.range": [0, yTop(views[view])] });
  const goTo = (number) => document.getElementById(`locus-${number}`)?.scrollIntoView();
  function listen() {
    element.on("plotly_relayout", (change) => {
      if (change["xaxis.range"]) zoomed(change["xaxis.range"]);
      else if (change["xaxis.range[0]"] !== undefined) zoomed([change["xaxis.range[0]"], change["xaxis.range[1]"]]);
      else if (change["yaxis.range[0]"] !== undefined) zoomed(range);
    });
    element.on("plotly_doubleclick", home);
    element.on("plotly_click", (event) => { const label = named.find((each) => each.point === event.points[0].customdata); if (label) goTo(label.locus); });
    element.on("plotly_clickannotation", (event) => goTo(event.annotation.name));
    document.getElementById("whole-genome").addEventListener("click", home);
    find("input[name=view]").forEach((input) => input.addEventListener("change", () => {
      view = Number(input.value);
      find(".view-caption").forEach((caption) => { caption.hidden = Number(caption.dataset.view) !== view; });
      draw();
    }));
    let waiting;
    window.addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(draw, 200); });
  }
  return { element, draw, listen };
})();

// ---- the others ------------------------------------------------------------------------------------------------------
const binColours = ["ink", "chromosome-a", "r3", "r2", "r1", "r4"];
function drawQQ(element) {
  const test = data.qq.tests[Number(document.getElementById("qq-test").value) || 0];
  const band = test.band;
  const top = Math.max(...test.curves.flatMap((c) => c.expected), 1), high = Math.max(...test.curves.flatMap((c) => c.observed), ...(band ? band.upper : []), top);
  const traces = [];
  if (band) traces.push(
    { x: band.expected, y: band.lower, mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false },
    { x: band.expected, y: band.upper, mode: "lines", line: { width: 0 }, fill: "tonexty", fillcolor: colour("band"), hoverinfo: "skip", showlegend: false });
  traces.push({ x: [0, top], y: [0, top], mode: "lines", line: { color: colour("muted"), width: 1 }, hoverinfo: "skip", showlegend: false });
  test.curves.forEach((curve, i) => traces.push({ x: curve.expected, y: curve.observed, mode: "markers", marker: { size: curve.bin === "all" ? 5 : 4, color: colour(binColours[i % binColours.length]) },
    name: `${curve.bin === "all" ? "all variants" : `MAF ${escaped(curve.bin)}`}${curve.lambda === null ? "" : `, λ ${curve.lambda.toFixed(3)}`}`,
    hovertemplate: "expected %{x:.2f}<br>observed %{y:.2f}" }));
  return Plotly.react(element, traces, layout(element, { showlegend: true, legend: { traceorder: "normal", x: 0.02, y: 0.99, bgcolor: colour("paper", 0.8), font: { size: 11.5 } },
    xaxis: { title: { text: "Expected −log<sub>10</sub> p", standoff: 8 }, range: [0, top * 1.03] }, yaxis: { title: { text: "Observed −log<sub>10</sub> p", standoff: 8 }, range: [0, high * 1.05] } }), options);
}

function drawLosses(element) {
  const colours = ["accent", "r3", "r2", "r4", "lead"];
  const traces = data.losses.map(({ name, values }, i) => ({ x: values.map((_, epoch) => epoch + 1), y: values, name: escaped(name), mode: "lines+markers",
    line: { color: colour(colours[i % colours.length]), width: 1.6 }, marker: { size: 5 }, hovertemplate: "epoch %{x}<br>loss %{y:.4f}" }));
  const epochs = Math.max(...data.losses.map(({ values }) => values.length));
  return Plotly.react(element, traces, layout(element, { showlegend: traces.length > 1, legend: { x: 1, xanchor: "right", y: 1 }, xaxis: { title: { text: "Epoch" }, dtick: Math.ceil(epochs / 10) }, yaxis: { title: { text: "Loss" } } }), options);
}

function drawEvidence(element) {
  const { traits, loci, names, value, beta, standard_error: error } = data.evidence;
  const limit = data.manhattan?.views.find((each) => each.key === "best")?.line;
  const rows = loci.map((n, i) => `${n}  ${escaped(names[i])}`), columns = traits.map(escaped);
  const hover = loci.map((n, i) => traits.map((trait, j) => value[i][j] === null ? "" : [`locus ${n}, <b>${escaped(names[i])}</b>`, columns[j], `−log<sub>10</sub> p ${value[i][j].toFixed(1)}`,
    ...(beta[i][j] === null ? [] : [`β ${beta[i][j].toFixed(3)} ± ${(error[i][j] ?? NaN).toFixed(3)} (SE)`])].join("<br>")));
  const marks = value.map((row) => row.map((each) => limit != null && each !== null && each >= limit ? "●" : ""));
  return Plotly.react(element, [{ type: "heatmap", x: columns, y: rows, z: value, text: marks, texttemplate: "%{text}", textfont: { size: 9 }, hovertext: hover, hovertemplate: "%{hovertext}<extra></extra>",
    xgap: 1, ygap: 1, zmin: 0, zmax: Math.max(10, ...value.flat().map((each) => Math.min(each ?? 0, 40))),
    colorscale: [[0, colour("heat-low")], [0.5, colour("heat-middle")], [1, colour("heat-high")]],
    colorbar: { thickness: 10, outlinewidth: 0, title: { text: "−log<sub>10</sub> p", side: "right" } } }],
    layout(element, { xaxis: { type: "category", tickangle: Math.max(...traits.map((trait) => trait.length)) * 7.5 * traits.length > element.clientWidth - 220 ? -50 : 0, ticks: "" }, yaxis: { type: "category", autorange: "reversed", ticks: "", showgrid: false } }), options);
}

function drawRegion(element, region) {
  const shade = (r2) => r2 === null ? "unknown" : `r${Math.min(4, Math.floor(r2 * 5))}`;
  const shades = Object.fromEntries(["unknown", "r0", "r1", "r2", "r3", "r4"].map((name) => [name, colour(name)]));
  const order = region.id.map((_, i) => i).sort((a, b) => (region.r2[a] ?? -1) - (region.r2[b] ?? -1));
  const others = order.filter((i) => region.id[i] !== region.lead), lead = order.filter((i) => region.id[i] === region.lead);
  const text = (i) => `<b>${escaped(region.id[i])}</b><br>${escaped(region.chromosome)}:${commas(region.position[i])}<br>−log<sub>10</sub> p ${region.value[i].toFixed(1)}, p = ${pValue(region.value[i])}<br>r² to the lead ${region.r2[i] === null ? "not known" : region.r2[i].toFixed(2)}`;
  const trace = (group, marker) => ({ mode: "markers", x: group.map((i) => region.position[i] / 1e6), y: group.map((i) => region.value[i]), text: group.map(text), hovertemplate: "%{text}<extra></extra>", marker });
  const lanes = Math.max(0, ...region.genes.map((gene) => gene.lane + 1));
  const share = lanes ? Math.min(0.42, 0.1 + 0.055 * lanes) : 0;
  const high = Math.max(...region.value, region.line ?? 0) * 1.08 + 0.3, width = (region.end - region.start) / 1e6;
  const traces = [trace(others, { size: 6.5, color: others.map((i) => shades[shade(region.r2[i])]), line: { width: 0.4, color: colour("paper") } }),
    trace(lead, { size: 11, symbol: "diamond", color: colour("lead"), line: { width: 1, color: colour("paper") } })];
  if (lanes) traces.push({ mode: "markers", x: region.genes.map((g) => (g.start + g.end) / 2e6), y: region.genes.map((g) => -g.lane), yaxis: "y2", marker: { size: 10, opacity: 0 },
    text: region.genes.map((g) => `<b><i>${escaped(g.gene)}</i></b><br>${commas(g.start)}–${commas(g.end)}`), hovertemplate: "%{text}<extra></extra>" });
  const within = (at) => Math.min(Math.max(at, region.start), region.end) / 1e6;
  const genes = region.genes.map((g) => ({ type: "rect", xref: "x", yref: "y2", x0: within(g.start), x1: Math.max(within(g.end), within(g.start) + width / 500), y0: -g.lane - 0.13, y1: -g.lane + 0.13, fillcolor: colour("gene"), line: { width: 0 } }));
  const names = region.genes.map((g) => ({ xref: "x", yref: "y2", x: (within(g.start) + within(g.end)) / 2, y: -g.lane + 0.2, yanchor: "bottom", showarrow: false, text: `<i>${escaped(g.gene)}</i>`, font: { size: 10 }, borderpad: 0 }));
  return Plotly.react(element, traces, layout(element, { shapes: [...line(region.line), ...genes], annotations: names,
    xaxis: { range: [region.start / 1e6 - 0.01 * width, region.end / 1e6 + 0.01 * width], title: { text: `Chromosome ${escaped(region.chromosome)}, Mb` }, anchor: lanes ? "y2" : "y", tickformat: ",~r" },
    yaxis: { range: [0, high], title: { text: `−log<sub>10</sub> p, ${escaped(shortened(region.trait))}`, standoff: 8 }, domain: [share ? share + 0.03 : 0, 1] },
    ...(lanes ? { yaxis2: { domain: [0, share], range: [-lanes + 0.4, 0.9], visible: false, fixedrange: true } } : {}) }), options);
}

// ---- draw, one after another, and say when done ------------------------------------------------------------------------
const jobs = [];
const once = (action) => { let done = false; return () => { if (!done) action(); done = true; }; };
const plan = (id, draw) => { const element = document.getElementById(id); if (element) jobs.push(() => draw(element)); };
if (manhattan) jobs.push(() => manhattan.draw());
if (manhattan) jobs.push(once(manhattan.listen));
if (data.qq) plan("plot-qq", drawQQ);
if (data.losses) plan("plot-losses", drawLosses);
if (data.evidence) plan("plot-evidence", drawEvidence);
(data.regions ?? []).forEach((region) => plan(`plot-region-${region.locus}`, (element) => drawRegion(element, region)));

async function drawAll() {
  for (const job of jobs) {
    await job();
    await new Promise((resume) => setTimeout(resume, 0));
  }
  root.dataset.plots = "drawn";
}
if (data.qq) document.getElementById("qq-test").addEventListener("change", () => drawQQ(document.getElementById("plot-qq")));
themeListeners.push(() => jobs.forEach((job) => job()));
drawAll();
