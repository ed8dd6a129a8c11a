/* How everything on our pages looks: colours by day and by night, figures as people write them, tables,
   and the layout of a figure. Knows no timeline and no report. */
"use strict";

const inferno = { parts: (() => {
  // Okabe and Ito's palette first: told apart with every common form of colour blindness.
  const DAY = [
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#882255",
    "#999933", "#332288", "#44AA99", "#AA4499", "#DDCC77", "#661100",
  ];
  // The same hues, light enough for a dark ground.
  const NIGHT = [
    "#4BA3E3", "#E69F00", "#1FBF92", "#E294C0", "#8CCBF2", "#D9679F",
    "#BDBD4F", "#9C8FF0", "#6BD0BE", "#D07BD0", "#DDCC77", "#D98B6C",
  ];
  const LOOKS = {
    day: {
      palette: DAY, ink: "#1a1a1a", paper: "#fff", grid: "#e5e5e5", edge: "#333", soft: "#595959", bound: "#707070",
      vermillion: "#B64500", blue: "#0072B2", green: "#006B4F", missed: "rgba(204,121,167,0.28)", kept: "rgba(0,0,0,0.15)",
    },
    night: {
      palette: NIGHT, ink: "#e8e8e8", paper: "#16181c", grid: "#34373d", edge: "#bbb", soft: "#a8a8a8", bound: "#9a9a9a",
      vermillion: "#FF8A4C", blue: "#4BA3E3", green: "#4CCFA6", missed: "rgba(226,148,192,0.30)", kept: "rgba(255,255,255,0.22)",
    },
  };
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  let printing = false;
  const look = () => (dark.matches && !printing ? LOOKS.night : LOOKS.day);

  // Paper is narrower than the window, and rules for print hold only after this event: a figure that is
  // drawn for the window would be cut off, or leave half of the sheet empty.
  function paper(on) {
    printing = on;
    document.documentElement.classList.toggle("paper", on);
  }

  // Calls *repaint* when the ground turns dark or light, and for paper, which is light; *all* says
  // that what is not in the window is wanted, too.
  function onLook(repaint) {
    dark.addEventListener("change", () => repaint({ all: false }));
    window.addEventListener("beforeprint", () => { paper(true); repaint({ all: true }); });
    window.addEventListener("afterprint", () => { paper(false); repaint({ all: false }); });
  }

  const colour = (place) => look().palette[place % DAY.length];

  // A type of GPU has the same colour in every figure, report and page; those that are not in this
  // list get the colours that are left, as they come.
  const GPUS = ["H100", "L40S", "MI250", "A100", "L4", "G2", "MI300X", "H200", "MI210", "B200"];
  const others = new Map();
  function gpuColour(accelerator) {
    const type = String(accelerator).replace(/^\d+x/, "");
    const place = GPUS.indexOf(type);
    if (place >= 0) return colour(place);
    if (!others.has(type)) others.set(type, GPUS.length + others.size);
    return colour(others.get(type));
  }

  // -- words and figures

  const escape = (text) => String(text)
    .replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");
  const isKnown = (value) => value !== null && value !== undefined && Number.isFinite(value);
  const grouped = (value, digits = 0) => value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  const figure = (value, digits = 0) => (isKnown(value) ? grouped(value, digits) : "–");
  // So many digits as are worth reading: 12,346, 123.5, 1.235.
  const short = (value) => (isKnown(value) ? value.toLocaleString("en-US", { maximumSignificantDigits: Math.max(4, String(Math.trunc(Math.abs(value))).length) }) : "–");
  // 99.98 % is not all: what is missing of it is what people ask about.
  const percent = (share) => (isKnown(share) ? `${(100 * share).toFixed(share < 1 && share >= 0.9995 ? 3 : 1)} %` : "–");
  const dollars = (usd) => (isKnown(usd) ? `$\u00A0${grouped(usd, 2)} an hour` : "–");

  function wrapped(text, width = 58) {
    const lines = [""];
    for (const word of String(text).split(/\s+/)) {
      const last = lines.length - 1;
      if (lines[last] && lines[last].length + word.length >= width) lines.push(word);
      else lines[last] += (lines[last] ? " " : "") + word;
    }
    return lines.map(escape).join("<br>");
  }

  // A name beside or below a figure, which the library reads as HTML: cut in its middle where it would leave no room for the figure.
  function label(name, most = 32) {
    const letters = [...String(name)];
    const half = Math.floor((most - 1) / 2);
    const shown = letters.length <= most ? String(name) : `${letters.slice(0, half).join("")}…${letters.slice(-half).join("")}`;
    return shown.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  }

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  function tableOf(headings, rows, caption) {
    const head = make("tr", {}, ...headings.map((text) => make("th", { scope: "col" }, text)));
    const body = rows.map((row) => make("tr", {}, ...row.map((text) => make("td", {}, text === null ? "–" : String(text)))));
    const table = make("table", {}, make("thead", {}, head), make("tbody", {}, ...body));
    const scrolled = make("div", { class: "scrolled", tabindex: "0", role: "region", "aria-label": caption || "table" }, table);
    // Outside of what scrolls, so that a narrow window shows all of it.
    return make("div", {}, ...(caption ? [make("p", { class: "caption" }, caption)] : []), scrolled);
  }

  // -- figures

  const CONFIG = {
    responsive: true, displaylogo: false, displayModeBar: "hover",
    // What a page shows stays where it is: the library would offer to upload it.
    modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d", "sendChartToCloud", "sendDataToCloud"],
    plotlyServerURL: "",
    toImageButtonOptions: { format: "svg" },
  };
  const axis = (title, size = 12) => ({
    title: { text: title, standoff: 4, font: { size } }, gridcolor: look().grid, linecolor: look().grid, zeroline: false, automargin: true,
    separatethousands: true, exponentformat: "none",
  });

  function layout(height, extra) {
    const { ink, paper, edge } = look();
    return {
      height, font: { family: "system-ui, 'DejaVu Sans', sans-serif", size: 12, color: ink }, margin: { l: 56, r: 12, t: 8, b: 36 },
      hovermode: "closest", paper_bgcolor: paper, plot_bgcolor: paper,
      hoverlabel: { align: "left", namelength: -1, bgcolor: paper, bordercolor: edge, font: { size: 12, color: ink } },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 11 } }, ...extra,
    };
  }

  // Draws in *place*, again if it has a figure. The library measures a place once, and follows the window
  // from then on, not paper.
  const onPaper = new WeakSet();
  function draw(place, traces, of) {
    Plotly.react(place, traces, printing ? { ...of, width: place.clientWidth } : of, CONFIG);
    if (printing) onPaper.add(place);
    else if (onPaper.delete(place)) Plotly.Plots.resize(place);
  }

  // What a figure says where there is nothing to draw.
  const emptyNote = (text, yref = "paper", y = 0.5) => ({
    text, xref: "paper", yref, x: 0.5, y, showarrow: false, font: { size: 12, color: look().soft },
  });

  // Returns what the element *id* holds: JSON, compressed, in letters (inferno/web/page.py). Loads nothing.
  async function unpacked(id) {
    const letters = atob(document.getElementById(id).textContent);
    const bytes = Uint8Array.from(letters, (letter) => letter.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
  }

  return {
    axis, colour, dollars, draw, emptyNote, escape, figure, gpuColour, isKnown, label, layout, look, make, onLook, percent, short, tableOf, unpacked, wrapped,
  };
})() };
