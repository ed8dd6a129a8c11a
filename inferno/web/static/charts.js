/* Draws a report (inferno/web/report.py): its timelines with draw.js, then a section for each
   directory with tables and charts (inferno/web/charts.py says what is in one). */
"use strict";

Object.assign(inferno, (() => {
  const { axis, colour, draw, emptyNote, escape, figure, isKnown: known, label, layout, look, make, onLook, short, tableOf } = inferno.parts;
  const SYMBOLS = ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x"];

  const layoutOf = (height, x, y, { xaxis = {}, yaxis = {}, ...extra } = {}) => layout(height, {
    margin: { l: 60, r: 16, t: 12, b: 48 }, xaxis: { ...axis(x), ...xaxis }, yaxis: { ...axis(y), ...yaxis }, ...extra,
  });

  // One colour for a policy throughout the page.
  const places = new Map();
  function colourOf(name, bound = false) {
    if (bound) return look().bound;
    if (!places.has(name)) places.set(name, places.size);
    return colour(places.get(name));
  }

  const span = (low, high, form) => (known(low) && known(high) ? ` [${form(low)}, ${form(high)}]` : "");

  // All means, and their bars as far as these do not drown the differences between them.
  function view(points, axis) {
    const means = points.map((point) => point[axis]);
    const [least, most] = [Math.min(...means), Math.max(...means)];
    const room = Math.max(most - least, 0.05 * Math.abs(most), 1e-9);
    const end = (key, limit, pick) => pick(...points.map((point) => (known(point[key]) ? point[key] : point[axis])), limit);
    const low = Math.max(end(`${axis}_low`, least, Math.min), least - room);
    const high = Math.min(end(`${axis}_high`, most, Math.max), most + room);
    return [low - 0.12 * room, high + 0.12 * room];
  }

  const shares = ([low, high]) => [low, Math.min(high, Math.max(100 + 0.08 * (100 - low), low + 1e-3))];

  // The interval of a few seeds reaches below 0; no cost does.
  const upwards = ([low, high]) => [Math.max(low, 0), high];

  // -- cost against attainment

  function cost(place, item) {
    const usd = (value) => figure(value, 2);
    const points = (value) => value.toFixed(1);
    const series = [...new Set(item.points.map((point) => point.series))];
    const traces = series.map((name, number) => {
      const own = item.points.filter((point) => point.series === name);
      const bars = (axis) => ({
        type: "data", symmetric: false, thickness: 1, width: 3,
        array: own.map((one) => (known(one[`${axis}_high`]) ? one[`${axis}_high`] - one[axis] : 0)),
        arrayminus: own.map((one) => (known(one[`${axis}_low`]) ? one[axis] - one[`${axis}_low`] : 0)),
      });
      const star = name === "clairvoyant";
      const shade = star ? look().ink : colourOf(name, own[0].bound);
      return {
        x: own.map((one) => one.x), y: own.map((one) => one.y), name: label(name), type: "scatter", mode: "markers",
        marker: { size: star ? 15 : 10, symbol: star ? "star" : SYMBOLS[number % SYMBOLS.length], color: shade },
        error_x: { ...bars("x"), color: shade }, error_y: { ...bars("y"), color: shade },
        text: own.map((one) => `<b>${escape(one.text)}</b><br>$ ${usd(one.x)}${span(one.x_low, one.x_high, usd)} an hour<br>`
          + `${points(one.y)}${span(one.y_low, one.y_high, points)} % within target`),
        hovertemplate: "%{text}<extra></extra>",
      };
    });
    const front = item.front.map((number) => item.points[number]);
    traces.unshift({
      x: front.map((one) => one.x), y: front.map((one) => one.y), name: "front (unbeaten)", type: "scatter",
      mode: "lines", line: { color: look().bound, dash: "dash", width: 1.2 }, hoverinfo: "skip",
    });
    draw(place, traces, layoutOf(420, "cost [$/h]", "requests within target [%]", item.points.length ? {
      xaxis: { range: upwards(view(item.points, "x")) }, yaxis: { range: shares(view(item.points, "y")) },
    } : { annotations: [emptyNote("not known: no request was scored")] }));
  }

  // -- heat maps

  function heat(place, item) {
    const round = (value) => value.toFixed(value >= 100 ? 0 : 1);
    const say = (value, low, high) => (known(value) ? round(value) + (known(low) ? `<br>${round(low)}–${round(high)}` : "") : "–");
    const text = item.values.map((row, r) => row.map((value, c) => say(value, item.lows[r][c], item.highs[r][c])));
    draw(place, [{
      type: "heatmap", z: item.values, x: item.periods_s.map((value) => `${value} s`), y: item.alphas.map(String), text,
      texttemplate: "%{text}", colorscale: "Cividis", zmin: item.low, zmax: item.high, xgap: 2, ygap: 2,
      colorbar: { title: { text: item.unit, side: "right" }, thickness: 14 },
      hovertemplate: `period %{x}, alpha %{y}<br>%{z:.2f} ${escape(item.unit)}<extra></extra>`,
    }], layoutOf(120 + 80 * item.alphas.length, "control period", "disturbance alpha", {
      xaxis: { type: "category" }, yaxis: { type: "category" },
    }));
  }

  // -- lines, bars, differences

  // Labels as people write them: 20, 50, 100, and of many decades, or in a narrow window, the powers of ten alone.
  function logAxis(values, width) {
    const above = values.filter((value) => known(value) && value > 0);
    if (!above.length) return { type: "log" };
    const [first, last] = [Math.floor(Math.log10(Math.min(...above))), Math.ceil(Math.log10(Math.max(...above)))];
    const many = last - first > 4 || 3 * (last - first) * 36 > width - 70;
    // Within a decade one of three labels is left, which says nothing of the distances.
    const close = Math.max(...above) < 6 * Math.min(...above);
    const digits = close ? [1, 1.5, 2, 3, 4, 5, 7] : many ? [1] : [1, 2, 5];
    const ticks = Array.from({ length: last - first + 1 }, (_, place) => digits.map((digit) => digit * 10 ** (first + place))).flat();
    return { type: "log", tickvals: ticks, ticktext: ticks.map(short), tickangle: 0 };
  }

  function lines(place, item) {
    const dashes = ["solid", "dash", "dot", "dashdot"];
    const traces = item.curves.map((curve, number) => ({
      x: curve.x, y: curve.y, name: label(curve.name), type: "scatter", mode: curve.x.length > 1 ? "lines" : "markers",
      marker: { color: colourOf(curve.name, curve.bound) },
      line: {
        shape: item.steps ? "hv" : "linear", width: curve.bound ? 1.4 : 1.8, color: colourOf(curve.name, curve.bound),
        dash: curve.bound ? (curve.name.startsWith("clairvoyant") ? "dash" : "dot") : dashes[Math.floor(number / 12) % 4],
      },
      hovertemplate: `<b>${escape(curve.name)}</b><br>%{x:,.4~r} · %{y:,.4~r}<extra></extra>`,
    }));
    draw(place, traces, layoutOf(380, item.x_title, item.y_title, {
      xaxis: item.x_log ? logAxis(item.curves.flatMap((curve) => curve.x), place.clientWidth) : {}, yaxis: item.x_log ? { range: [0, 101] } : { rangemode: item.from_zero ? "tozero" : "normal" },
      showlegend: item.curves.length > 1,
    }));
  }

  // Names beside bars: at most a third of the figure is theirs.
  const labelled = (names, place) => ({
    tickvals: names, ticktext: names.map((name) => label(name, Math.max(Math.min(Math.floor(place.clientWidth / 16), 40), 16))),
  });

  function bars(place, item) {
    const traces = item.parts.map((part, number) => ({
      type: "bar", orientation: "h", x: part.values, y: item.names, name: part.name, marker: { color: colour(number) },
      text: item.names.map(escape), textposition: "none",
      hovertemplate: `<b>%{text}</b><br>${escape(part.name)}: %{x:.2f} ${escape(item.unit)}<br>${escape(part.meaning)}<extra></extra>`,
    }));
    // In a narrow window each reason has a line of its own; a legend that takes half of the figure would scroll.
    const beside = labelled(item.names, place);
    const room = place.clientWidth - 60 - 6.5 * Math.max(...beside.ticktext.map((text) => text.length), 12);
    const lines = Math.ceil(item.parts.length / Math.max(Math.floor(room / 120), 1));
    draw(place, traces, layoutOf(Math.max(140 + 24 * item.names.length, 40 * lines + 40), item.unit, "", {
      barmode: "stack", yaxis: { autorange: "reversed", type: "category", ...beside }, showlegend: true, bargap: 0.35,
    }));
  }

  function differences(place, item) {
    const form = (value) => `${value > 0 ? "+" : ""}${value.toFixed(2)}`;
    const sure = (row) => known(row.low) && known(row.high) && (row.low > 0 || row.high < 0);
    const trace = (rows, name, marker) => ({
      type: "scatter", mode: "markers", x: rows.map((row) => row.mean), y: rows.map((row) => row.name), name, marker,
      error_x: {
        type: "data", symmetric: false, color: marker.color, thickness: 1.4, width: 4,
        array: rows.map((row) => (known(row.high) ? row.high - row.mean : NaN)), arrayminus: rows.map((row) => (known(row.low) ? row.mean - row.low : NaN)),
      },
      text: rows.map((row) => `<b>${escape(row.name)}</b><br>${form(row.mean)}${span(row.low, row.high, form)}`), hovertemplate: "%{text}<extra></extra>",
    });
    draw(place, [
      trace(item.rows.filter(sure), "95 % interval without 0", { color: look().blue, size: 9 }),
      trace(item.rows.filter((row) => !sure(row)), "may be chance", { color: look().bound, size: 9, symbol: "circle-open", line: { width: 2 } }),
    ], layoutOf(130 + 24 * item.rows.length, item.unit, "", {
      xaxis: { zeroline: true, zerolinecolor: look().ink, zerolinewidth: 1 },
      yaxis: {
        type: "category", categoryorder: "array", categoryarray: item.rows.map((row) => row.name), autorange: "reversed",
        ...labelled(item.rows.map((row) => row.name), place),
      },
    }));
  }

  const DRAWERS = { cost, heat, lines, bars, differences };

  // -- the page

  function numbered(container, labels) {
    for (const row of container.querySelectorAll("tr")) {
      [...row.children].slice(labels).forEach((cell) => cell.classList.add("number"));
    }
    return container;
  }

  function wide(item) {
    if (item.kind === "table") return numbered(tableOf(item.headings, item.rows, item.title), item.labels);
    return make("div", { class: "note" }, ...(item.title ? [make("h3", {}, item.title)] : []), ...item.lines.map((text) => make("p", {}, text)));
  }

  // Whatever shows it to the eye is in the table below it too, for those who cannot see it.
  function dataOf(item) {
    const form = short;
    switch (item.kind) {
      case "cost": return tableOf(["", "cost [$/h]", "within target [%]"], item.points.map((one) => [one.text, form(one.x), form(one.y)]));
      case "heat": return tableOf(["alpha", ...item.periods_s.map((value) => `period ${value} s`)],
        item.values.map((row, place) => [String(item.alphas[place]), ...row.map(form)]));
      case "bars": return tableOf(["", ...item.parts.map((part) => part.name)],
        item.names.map((name, place) => [name, ...item.parts.map((part) => form(part.values[place]))]));
      case "differences": return tableOf(["", "mean", "low", "high"], item.rows.map((row) => [row.name, form(row.mean), form(row.low), form(row.high)]));
      default: {
        const at = (curve, share) => curve.x[curve.y.findIndex((value) => value >= share)];
        return item.x_log
          ? tableOf(["", "p50", "p90", "p95", "p99"], item.curves.map((curve) => [curve.name, ...[50, 90, 95, 99].map((share) => form(at(curve, share)))]))
          : tableOf(["", "mean", "most"], item.curves.map((curve) => {
            const values = curve.y.filter(known);
            return [curve.name, form(values.reduce((sum, value) => sum + value, 0) / values.length), form(Math.max(...values))];
          }));
      }
    }
  }

  function chart(item, watch) {
    const place = make("div", { class: "figure", role: "img", "aria-label": item.title, style: "min-height:240px" });
    watch(place, () => DRAWERS[item.kind](place, item));
    const figures = make("details", {}, make("summary", {}, "The figures"));
    figures.addEventListener("toggle", () => { if (figures.children.length === 1) figures.append(dataOf(item)); });
    return make("figure", {}, make("figcaption", {}, item.title), place, figures);
  }

  // Draws each figure when it is seen first, and again when it is seen after the ground has changed.
  function watcher() {
    const painters = new Map();
    const seen = new IntersectionObserver((entries) => {
      entries.filter((entry) => entry.isIntersecting).forEach((entry) => { seen.unobserve(entry.target); painters.get(entry.target)(); });
    }, { rootMargin: "400px" });
    onLook(({ all }) => {
      for (const [place, paint] of painters) {
        seen.unobserve(place);
        if (all) paint();
        else seen.observe(place);
      }
    });
    return (place, draw) => { painters.set(place, draw); seen.observe(place); };
  }

  function sectionOf(section, id, watch, alone) {
    const element = make("section", { id }, ...(alone ? [] : [make("h2", {}, section.title)]), make("p", { class: "note" }, section.about));
    let charts = null;
    for (const item of section.items) {
      if (item.kind === "table" || item.kind === "note") {
        element.append(wide(item));
        charts = null;
      } else {
        if (!charts) { charts = make("div", { class: "charts" }); element.append(charts); }
        charts.append(chart(item, watch));
      }
    }
    return element;
  }

  function drawReport(element, report) {
    const watch = watcher();
    const sections = report.sections.map((section, number) => sectionOf(section, `section-${number}`, watch, section.title === report.title));
    const over = make("section", { id: "timelines" }, make("h2", {}, "Over time"));
    const place = make("div");
    over.append(place);
    const links = [...report.sections.map((section, number) => [section.title, `section-${number}`]),
      ...(report.timelines.length ? [["Over time", "timelines"]] : [])];
    const nav = make("nav", { "aria-label": "Sections" }, make("ul", {}, ...links.map(([text, id]) => make("li", {}, make("a", { href: `#${id}` }, text)))));
    element.replaceChildren(...(links.length > 1 ? [nav] : []), ...sections, ...(report.timelines.length ? [over] : []),
      make("footer", { class: "note" }, `Made by ${report.made_with}.`));
    if (report.timelines.length) inferno.drawTimelines(place, report.timelines);
  }

  return { drawReport };
})());
