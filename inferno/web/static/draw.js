/* Draws timelines (inferno/web/timeline.py says what is in one) with Plotly: drawTimeline(element,
   timeline), again with more points whenever there are more. Knows no server and loads nothing. */
"use strict";

Object.assign(inferno, (() => {
  const {
    axis, dollars, draw, emptyNote, escape, figure, gpuColour, label, layout, look, make, onLook, percent, tableOf, wrapped,
  } = inferno.parts;
  const FORMAT = 1;
  const SPAN_MIN_S = 180;
  const SHOWN = 24; // servers at first, and so many more each time that one asks for more
  const DRAWN_MAX = 48; // figures that are kept although nobody sees them
  const known = (values) => (values || []).filter((value) => value !== null && value !== undefined);

  // -- axes

  function clock(timeline) {
    if (timeline.started) {
      const start = Date.parse(timeline.started);
      const at = (t) => new Date(start + 1000 * t).toISOString().replace("Z", "");
      return { at, title: "time (UTC)", type: "date", say: (t) => `${at(t).slice(11, 19)} UTC` };
    }
    const hours = timeline.end_s > 3 * 3600;
    const unit = hours ? 3600 : 60;
    const digits = hours ? 2 : 1;
    return {
      at: (t) => t / unit, title: hours ? "time [h]" : "time [min]", type: "linear",
      say: (t) => `${(t / unit).toFixed(digits)} ${hours ? "h" : "min"}`,
    };
  }

  // A value holds until the next, and the last one to the end.
  function steps(timeline, t, values) {
    const x = t.map(timeline.clock.at);
    const y = [...values];
    if (t.length && timeline.end_s > t[t.length - 1]) {
      x.push(timeline.clock.at(timeline.end_s));
      y.push(y[y.length - 1]);
    }
    return { x, y };
  }

  function xAxis(timeline, extra = {}) {
    const { clock: { at }, end_s: end, started, fleet } = timeline;
    // Of one cycle, or of seconds, an axis of milliseconds tells nobody anything.
    const young = started && fleet.t_s.length && end - fleet.t_s[0] < SPAN_MIN_S;
    // A little beyond the end, or the mark of one cycle is cut in half.
    const range = young ? { range: [at(end - SPAN_MIN_S), at(end + 0.03 * SPAN_MIN_S)] } : started || !end ? {} : { range: [0, at(end)] };
    return {
      // A slanted date takes half of a small figure.
      ...axis(timeline.clock.title), type: timeline.clock.type, tickangle: 0, ...range, ...extra,
    };
  }

  const yAxis = (title, extra = {}) => ({ ...axis(title, 11), rangemode: "tozero", nticks: 5, ...extra });

  function line(timeline, t, y, name, extra = {}) {
    return {
      x: t.map(timeline.clock.at), y, name, type: "scatter", mode: t.length > 1 ? "lines" : "markers", ...extra,
    };
  }

  // -- the fleet

  function gpuFigure(timeline, range) {
    const fleet = timeline.fleet;
    const traces = fleet.gpus.filter((one) => known(one.used).some((value) => value > 0)).map((one) => ({
      ...steps(timeline, fleet.t_s, one.used), name: label(one.type), type: "scatter", mode: "lines", stackgroup: "used",
      line: { shape: "hv", width: 1, color: gpuColour(one.type) }, customdata: one.available,
      hovertemplate: `${escape(one.type)}: %{y} of %{customdata} GPUs<extra></extra>`,
    }));
    if (timeline.events.length) {
      traces.push({
        x: timeline.events.map((event) => timeline.clock.at(event.t_s)), y: timeline.events.map(() => 0),
        name: "events", type: "scatter", mode: "markers", cliponaxis: false,
        marker: { symbol: "triangle-up", size: 9, color: look().vermillion },
        text: timeline.events.map((event) => wrapped(`${event.kind}: ${event.text}`)), hovertemplate: "%{text}<extra></extra>",
      });
    }
    const unit = fleet.gpus_are === "wanted" ? "GPUs of what is wanted" : "GPUs in use";
    return { traces, axis: yAxis(unit, range), title: `${unit}, by type`, showlegend: true };
  }

  // Timelines beside each other have equal scales.
  function fleetFigures(timeline, beside = [timeline]) {
    const fleet = timeline.fleet;
    const most = (pick) => 1.06 * Math.max(0.5, ...beside.flatMap((one) => known(pick(one.fleet))));
    const used = (one) => one.t_s.map((_, place) => one.gpus.reduce((sum, type) => sum + (type.used[place] || 0), 0));
    const upTo = (pick) => ({ range: [0, most(pick)], rangemode: "normal" });
    const one = (title, unit, t, values, extra = {}, axis = {}) => ({
      title, axis: yAxis(unit, axis), showlegend: false,
      traces: [line(timeline, values.length ? t : [], values, title, { line: { color: look().blue, width: 1.8 }, ...extra })],
    });
    const of = fleet.attainment_of;
    const least = 100 * Math.min(0.95, ...beside.flatMap((other) => known(other.fleet.attainment)));
    return [
      gpuFigure(timeline, upTo(used)),
      one(timeline.origin === "run" ? "Cost" : "Cost of what is wanted", "$ an hour", fleet.t_s, fleet.cost_usd_per_h,
        { line: { color: look().blue, shape: "hv" }, hovertemplate: "$ %{y:,.2f} an hour<extra></extra>" },
        upTo((other) => other.cost_usd_per_h)),
      one(`Attainment: ${of} within target`, `${of} within target [%]`, fleet.attainment_t_s,
        fleet.attainment.map((share) => (share === null ? null : 100 * share)),
        { hovertemplate: "%{y:.1f} %<extra></extra>" }, { rangemode: "normal", range: [Math.max(0, least - 3), 100.5] }),
      one("Backlog", "requests waiting", fleet.t_s, fleet.backlog, { line: { color: look().blue, shape: "hv" }, hovertemplate: "%{y:,} requests<extra></extra>" },
        upTo((other) => other.backlog)),
    ];
  }

  // -- one server

  function replicaTraces(timeline, server) {
    const { t_s: t, by_accelerator: pools } = server.replicas;
    const traces = [];
    const layer = (pool, values, state, extra) => traces.push({
      ...steps(timeline, t, values), name: `${label(pool.accelerator)} ${state}`, type: "scatter", mode: "lines",
      stackgroup: "replicas", yaxis: "y2", showlegend: known(values).some((value) => value > 0),
      hovertemplate: `${escape(pool.accelerator)}: %{y} ${state}<extra></extra>`, ...extra,
    });
    for (const pool of pools) {
      const colour = gpuColour(pool.accelerator);
      layer(pool, pool.ready, "ready", { line: { shape: "hv", width: 1.2, color: colour } });
    }
    for (const pool of pools) {
      const colour = gpuColour(pool.accelerator);
      layer(pool, pool.starting, "starting", {
        line: { shape: "hv", width: 0.6, color: colour },
        fillpattern: { shape: "/", fgcolor: colour, bgcolor: look().paper, size: 5, solidity: 0.4 },
      });
    }
    const total = t.map((_, place) => pools.reduce((sum, pool) => sum + (pool.wanted[place] || 0), 0));
    traces.push({
      ...steps(timeline, t, total), name: "wanted", type: "scatter", mode: "lines", yaxis: "y2", hoverinfo: "skip",
      line: { shape: "hv", width: 1.4, color: look().ink, dash: "dash" },
    });
    return traces;
  }

  function decisionTraces(timeline, server) {
    const say = (one) => `<b>${timeline.clock.say(one.t_s)}: ${escape(one.replicas)} × ${escape(one.accelerator || "–")}</b>`
      + `${one.held ? " (unchanged)" : ""}${one.kind ? ` · ${escape(one.kind)}` : ""}<br>${wrapped(one.text)}`;
    const marks = (chosen, name, marker) => ({
      x: chosen.map((one) => timeline.clock.at(one.t_s)), y: chosen.map((one) => one.replicas), name, type: "scatter",
      mode: "markers", yaxis: "y2", text: chosen.map(say), hovertemplate: "%{text}<extra></extra>", marker, showlegend: chosen.length > 0,
    });
    const changed = server.decisions.filter((one) => one.changed);
    const kept = server.decisions.filter((one) => !one.changed);
    return [
      { ...marks(kept, "unchanged", { size: 5, color: look().kept }), showlegend: false },
      marks(changed, "decision (hover: why)", { size: 8, symbol: "diamond", color: look().ink, line: { width: 1, color: look().paper } }),
    ];
  }

  function latencyTraces(timeline, server, name, yaxis, limit) {
    const values = server.traffic[name];
    const label = name === "ttft_ms" ? "TTFT" : "ITL";
    const t = server.traffic.t_s;
    const traces = [];
    const add = (key, words, style) => {
      if (values[key].length) {
        traces.push(line(timeline, t, values[key], words, {
          yaxis, line: style, legendgroup: words, showlegend: name === "ttft_ms",
          hovertemplate: `${label} ${words} %{y:,.4~r} ms<extra></extra>`,
        }));
      }
    };
    if (!values.p50.length) add("mean", "mean", { color: look().blue, width: 1.2, dash: "dot" });
    add("p50", "p50", { color: look().blue, width: 1.6 });
    add("p95", "p95", { color: look().vermillion, width: 1.6 });
    const target = (most, words, dash) => traces.push(line(timeline, [t.length ? t[0] : 0, timeline.end_s], [most, most], words, {
      mode: "lines", yaxis, line: { color: look().ink, width: 1.2, dash }, legendgroup: words, showlegend: name === "ttft_ms",
      hovertemplate: `${label} ${words} ${most} ms<extra></extra>`,
    }));
    if (limit) target(limit, "SLO", "dash");
    for (const one of percentilesOf(server, name)) target(one.limit_ms, `SLO p${one.percentile}`, "dot");
    return traces;
  }

  const percentilesOf = (server, name) => server.slo_percentiles.filter((one) => `${one.latency}_ms` === name);

  function stateTraces(timeline, server) {
    const { t_s: t, backlog, kv_cache: kv } = server.state;
    return [
      line(timeline, t, backlog, "backlog", {
        yaxis: "y5", line: { color: look().soft, shape: "hv", width: 1.6 }, hovertemplate: "%{y:,} requests waiting<extra></extra>",
      }),
      line(timeline, t, kv.map((share) => (share === null ? null : 100 * share)), "KV cache", {
        yaxis: "y6", line: { color: look().green, width: 1.4, dash: "dot" }, hovertemplate: "KV cache %{y:.0f} % in use<extra></extra>",
      }),
    ];
  }

  // A long tail would flatten what is near the target.
  function latencyTop(servers, name, limit) {
    const tops = servers.filter(Boolean).flatMap((server) => [
      ...known(server.traffic[name].p95), ...known(server.traffic[name].mean),
    ]).sort((a, b) => a - b);
    if (!tops.length) return limit ? 1.3 * limit : 1;
    const most = tops[Math.min(tops.length - 1, Math.floor(0.98 * tops.length))];
    return 1.08 * Math.max(limit || 0, limit ? Math.min(most, 8 * limit) : most, 1e-9);
  }

  function serverFigure(timeline, server, beside) {
    const traces = [
      line(timeline, server.traffic.t_s, server.traffic.rate_rpm, "arrivals", {
        line: { color: look().ink, width: 1.6 }, showlegend: false, hovertemplate: "%{y:,.4~r} requests/min<extra></extra>",
      }),
      ...replicaTraces(timeline, server), ...decisionTraces(timeline, server),
      ...latencyTraces(timeline, server, "ttft_ms", "y3", server.slo_ttft_ms),
      ...latencyTraces(timeline, server, "itl_ms", "y4", server.slo_itl_ms),
      ...stateTraces(timeline, server),
    ];
    if (server.missed.length) {
      traces.push({
        x: [null], y: [null], name: "a target was missed", type: "scatter", mode: "markers",
        marker: { symbol: "square", size: 11, color: look().missed },
      });
    }
    const most = (pick) => Math.max(1, ...beside.filter(Boolean).flatMap((one) => known(pick(one))));
    const replicas = most((one) => one.replicas.t_s.map((_, place) => Math.max(
      one.replicas.by_accelerator.reduce((sum, pool) => sum + (pool.wanted[place] || 0), 0),
      one.replicas.by_accelerator.reduce((sum, pool) => sum + (pool.ready[place] || 0) + (pool.starting[place] || 0), 0),
    )));
    const backlog = most((one) => one.state.backlog);
    // Half a replica and half a request are nothing.
    const whole = (top) => (top < 5 ? { dtick: 1 } : {});
    const limitOf = (name, limit) => Math.max(limit || 0, ...percentilesOf(server, name).map((one) => one.limit_ms));
    const fixed = (top) => ({ range: [0, top], rangemode: "normal" });
    const tops = {
      ttft_ms: latencyTop(beside, "ttft_ms", limitOf("ttft_ms", server.slo_ttft_ms)),
      itl_ms: latencyTop(beside, "itl_ms", limitOf("itl_ms", server.slo_itl_ms)),
    };
    const figureLayout = layout(640, {
      showlegend: true,
      xaxis: xAxis(timeline, { anchor: "y5" }),
      yaxis: yAxis("requests/min", { domain: [0.86, 1], ...fixed(1.08 * most((one) => one.traffic.rate_rpm)) }),
      yaxis2: yAxis("replicas", { domain: [0.61, 0.82], ...fixed(1.12 * replicas), ...whole(replicas) }),
      yaxis3: yAxis("TTFT [ms]", { domain: [0.41, 0.57], ...fixed(tops.ttft_ms) }),
      yaxis4: yAxis("ITL [ms]", { domain: [0.2, 0.37], ...fixed(tops.itl_ms) }),
      yaxis5: yAxis("backlog [requests]", { domain: [0, 0.16], ...fixed(1.1 * backlog), ...whole(backlog) }),
      yaxis6: yAxis("KV cache [%]", {
        overlaying: "y5", side: "right", range: [0, 105], rangemode: "normal", showgrid: false, tickvals: [0, 50, 100],
      }),
      margin: { l: 60, r: 52, t: 8, b: 40 },
      annotations: [...unknown(server), ...beyond(server, tops)],
      shapes: server.missed.map((span) => ({
        type: "rect", xref: "x", yref: "paper", x0: timeline.clock.at(span.start_s), x1: timeline.clock.at(span.end_s),
        y0: 0, y1: 1, fillcolor: look().missed, line: { width: 0 }, layer: "below",
      })),
    });
    return { traces, layout: figureLayout };
  }

  // What the panels say whose figures are not known, for nobody to take them for zero.
  function unknown(server) {
    const { traffic, state, replicas } = server;
    const ofLatency = (one) => [...one.mean, ...one.p50, ...one.p95];
    const panels = [
      ["arrivals", "y", traffic.rate_rpm], ["replicas", "y2", replicas.by_accelerator.flatMap((pool) => pool.wanted)],
      ["TTFT", "y3", ofLatency(traffic.ttft_ms)], ["ITL", "y4", ofLatency(traffic.itl_ms)], ["backlog", "y5", state.backlog],
    ];
    return panels.filter(([, , values]) => !known(values).length)
      .map(([words, yref]) => emptyNote(`${words}: not known`, `${yref} domain`));
  }

  // How far the lines go that leave a panel: an overload would else be an empty one.
  function beyond(server, tops) {
    return [["ttft_ms", "y3"], ["itl_ms", "y4"]].flatMap(([name, yref]) => {
      const { mean, p50, p95 } = server.traffic[name];
      const most = [mean, p50, p95].flatMap(known).reduce((one, other) => Math.max(one, other), 0);
      return most > tops[name] ? [{
        ...emptyNote(`↑ up to ${figure(Math.round(most))} ms`, `${yref} domain`), x: 1, y: 1, xanchor: "right", yanchor: "top", bgcolor: look().paper,
      }] : [];
    });
  }

  function facts(server) {
    const slo = [
      server.slo_ttft_ms ? `TTFT ${figure(server.slo_ttft_ms)} ms` : "", server.slo_itl_ms ? `ITL ${figure(server.slo_itl_ms)} ms` : "",
      server.slo_tps ? `${server.slo_tps} tokens/s` : "",
      ...server.slo_percentiles.map((one) => `${one.latency.toUpperCase()} p${one.percentile} ${one.limit_ms} ms`),
    ].filter(Boolean).join(", ");
    const accelerators = server.replicas.by_accelerator
      .filter((pool) => known([...pool.wanted, ...pool.ready]).some((value) => value > 0)).map((pool) => pool.accelerator);
    return [
      `SLO ${slo || "none"}`, `${percent(server.attainment)} within target`, dollars(server.cost_usd_per_h),
      accelerators.join(", ") || "no accelerator",
    ].join(" · ");
  }

  function decisionRows(timeline, server) {
    const rows = server.decisions.filter((one, place) => one.changed || place === 0
      || one.text !== server.decisions[place - 1].text).slice(-200);
    return rows.map((one) => [
      timeline.clock.say(one.t_s), `${one.replicas} × ${one.accelerator || "–"}`, one.held ? "unchanged" : one.kind, one.text,
    ]);
  }

  // -- the page of timelines

  function prepared(timeline) {
    if (timeline.format !== FORMAT) throw new Error(`timeline of format ${timeline.format}: this page draws format ${FORMAT}`);
    return { ...timeline, clock: clock(timeline), byName: new Map(timeline.servers.map((server) => [server.name, server])) };
  }

  // What was drawn in an element, and how to draw each part that is seen again.
  const pages = new WeakMap();

  class Page {
    constructor(element) {
      this.element = element;
      this.key = "";
      this.shown = SHOWN;
      this.parts = new Map();
      this.drawn = new Set(); // places with a figure in them, the one drawn last at the end
      this.watcher = new IntersectionObserver((entries) => {
        for (const entry of entries) {
          const part = this.parts.get(entry.target);
          if (!part) continue;
          part.seen = entry.isIntersecting;
          if (part.seen && part.stale) this.refresh(part);
        }
        this.forget();
      }, { rootMargin: "300px" });
      onLook(({ all }) => this.repaint(all));
    }

    refresh(part) {
      part.stale = false;
      part.paint();
      this.drawn.delete(part.place);
      this.drawn.add(part.place);
    }

    // A figure takes a megabyte; those that were seen long ago are drawn again when they are looked at.
    forget() {
      for (const place of this.drawn) {
        if (this.drawn.size <= DRAWN_MAX) return;
        const part = this.parts.get(place);
        if (part && part.seen) continue;
        this.drawn.delete(place);
        Plotly.purge(place);
        if (part) part.stale = true;
      }
    }

    repaint(all) {
      for (const part of this.parts.values()) {
        part.stale = true;
        if ((all || part.seen) && part.place.isConnected) this.refresh(part);
      }
      if (!all) this.forget();
    }

    show(timelines) {
      this.timelines = timelines.map(prepared);
      const names = [...new Set(this.timelines.flatMap((one) => one.servers.map((server) => server.name)))];
      const key = JSON.stringify([this.timelines.map((one) => one.title), names]);
      if (key !== this.key) {
        this.key = key;
        this.build(names);
      }
      this.tell();
      this.repaint(false);
    }

    part(label, height, paint) {
      const place = make("div", { class: "figure", role: "img", "aria-label": label, style: `min-height:${height}px` });
      this.parts.set(place, { place, stale: true, seen: false, paint: () => paint(place) });
      this.watcher.observe(place);
      return place;
    }

    build(names) {
      this.watcher.disconnect();
      this.drawn.forEach((place) => Plotly.purge(place));
      this.drawn.clear();
      this.parts.clear();
      const [searched, ordered] = [this.search ? this.search.value : "", this.order ? this.order.value : "worst"];
      const many = this.timelines.length > 1;
      const columns = this.timelines.map((timeline, number) => {
        const figures = fleetFigures(timeline).map((one, which) => make("figure", {},
          make("figcaption", {}, one.title),
          this.part(`${one.title}, ${timeline.title}`, 230, (place) => this.paintFleet(place, number, which))));
        return make("div", { class: "fleet" }, ...(many ? [make("h3", {}, timeline.title)] : []), ...figures);
      });
      this.names = names;
      this.sections = new Map();
      this.summary = make("p", { class: "summary", "aria-live": "polite" });
      this.events = make("details", { class: "events" });
      this.search = make("input", { type: "search", placeholder: "all", "aria-label": "Show servers whose name, model or class holds" });
      this.order = make("select", { "aria-label": "Order of the servers" },
        ...[["worst", "least attainment first"], ["cost", "dearest first"], ["name", "by name"]]
          .map(([value, text]) => make("option", { value }, text)));
      this.found = make("span", { "aria-live": "polite" });
      this.search.value = searched;
      this.order.value = ordered;
      this.list = make("div", { class: many ? "servers beside" : "servers" });
      this.empty = make("p", { class: "note" });
      this.more = make("button", { type: "button", class: "more" });
      this.search.addEventListener("input", () => { this.shown = SHOWN; this.arrange(); });
      this.order.addEventListener("change", () => this.arrange());
      this.more.addEventListener("click", () => this.showMore());
      const tools = make("div", { class: "tools" }, make("label", {}, "Servers: ", this.search), make("label", {}, "Order: ", this.order), this.found);
      tools.hidden = names.length < 2;
      this.element.replaceChildren(
        this.summary, make("div", { class: many ? "fleets beside" : "fleets" }, ...columns), this.events, tools, this.list, this.empty, this.more,
      );
      this.placed = [];
      this.arrange();
    }

    section(name) {
      const columns = this.timelines.map((timeline, number) => {
        const fact = make("p", { class: "facts" });
        const decisions = make("details", {}, make("summary", {}, "Decisions and reasons"));
        decisions.addEventListener("toggle", () => this.fillDecisions(decisions, name, number));
        const place = this.part(
          `${name}: requests per minute, replicas, TTFT and ITL in ms against the target, backlog and KV cache over time`,
          640, (at) => this.paintServer(at, name, number),
        );
        const column = make("div", { class: "column" }, ...(this.timelines.length > 1 ? [make("h4", {}, timeline.title)] : []),
          fact, place, decisions);
        column.fact = fact;
        column.decisions = decisions;
        return column;
      });
      const section = make("section", { class: "server" }, make("h3", { tabindex: "-1" }, name), make("div", { class: "columns" }, ...columns));
      section.columns = columns;
      this.sections.set(name, section);
      this.tellOf(name, section);
      return section;
    }

    serverOf(number, name) {
      return this.timelines[number].byName.get(name);
    }

    tell() {
      this.summary.textContent = this.timelines.map((timeline) => [
        ...(this.timelines.length > 1 ? [timeline.title] : timeline.origin === "live" ? ["Now"] : []), `${percent(timeline.attainment)} within target`,
        dollars(timeline.cost_usd_per_h), `${figure(timeline.servers.length)} server${timeline.servers.length === 1 ? "" : "s"}`,
      ].join(" · ")).join(" | ");
      const events = this.timelines.flatMap((timeline) => timeline.events.map((event) => [
        ...(this.timelines.length > 1 ? [timeline.title] : []), timeline.clock.say(event.t_s), event.kind, event.text,
      ]));
      this.events.hidden = !events.length;
      const headings = [...(this.timelines.length > 1 ? ["of"] : []), "time", "what", "text"];
      this.events.replaceChildren(make("summary", {}, `Events (${events.length})`), tableOf(headings, events.slice(-200), "Events"));
      for (const name of this.placed) this.tellOf(name, this.sections.get(name));
    }

    tellOf(name, section) {
      section.columns.forEach((column, number) => {
        const server = this.serverOf(number, name);
        column.fact.textContent = server ? facts(server) : "not in this one";
        this.fillDecisions(column.decisions, name, number);
      });
    }

    fillDecisions(details, name, number) {
      const server = this.serverOf(number, name);
      details.hidden = !server || !server.decisions.length;
      if (details.open && server) {
        details.replaceChildren(make("summary", {}, "Decisions and reasons"), tableOf(
          ["time", "decided", "kind", "reason"], decisionRows(this.timelines[number], server), `${name}: decisions`,
        ));
      }
    }

    // The names that are asked for, in the order that is asked for.
    chosen() {
      const wanted = this.search.value.trim().toLowerCase();
      const fits = (name) => name.toLowerCase().includes(wanted) || this.timelines.some((timeline, number) => {
        const server = this.serverOf(number, name);
        return server && (server.model.toLowerCase().includes(wanted) || server.service_class.toLowerCase().includes(wanted));
      });
      const worst = (name, key, none) => Math.min(...this.timelines.map((timeline, number) => {
        const server = this.serverOf(number, name);
        return server && server[key] !== null ? server[key] : none;
      }));
      const keys = {
        worst: (name) => worst(name, "attainment", 2), cost: (name) => -worst(name, "cost_usd_per_h", 0), name: () => 0,
      };
      const key = keys[this.order.value];
      return this.names.filter(fits).map((name) => [key(name), name])
        .sort(([a, one], [b, other]) => a - b || (one < other ? -1 : 1)).map(([, name]) => name);
    }

    // Of a thousand servers a page of the first ones is there; what moves to the front is shown when one
    // asks anew, so that nothing jumps under who reads.
    arrange() {
      const names = this.chosen();
      const gone = new Set(this.placed);
      this.placed = names.slice(0, this.shown);
      this.list.replaceChildren(...this.placed.map((name) => this.sections.get(name) || this.section(name)));
      this.placed.forEach((name) => gone.delete(name));
      for (const name of gone) this.drop(name);
      const left = names.length - this.placed.length;
      this.found.textContent = `${figure(this.placed.length)} of ${figure(names.length)} shown`;
      this.more.hidden = !left;
      this.more.textContent = `Show ${Math.min(SHOWN, left)} more of ${figure(left)}`;
      this.empty.hidden = names.length > 0;
      this.empty.textContent = this.names.length
        ? "No server is called so, nor its model or class. Empty the box to see all."
        : "No server has been seen yet. A loop sees Deployments with the label inferno.server.managed=true: inferno doctor says what is missing.";
    }

    showMore() {
      const before = this.placed.length;
      this.shown += SHOWN;
      this.arrange();
      this.sections.get(this.placed[before]).querySelector("h3").focus();
    }

    drop(name) {
      for (const place of this.sections.get(name).querySelectorAll(".figure")) {
        this.watcher.unobserve(place);
        if (this.drawn.delete(place)) Plotly.purge(place);
        this.parts.delete(place);
      }
      this.sections.delete(name);
    }

    paintFleet(place, number, which) {
      const timeline = this.timelines[number];
      const one = fleetFigures(timeline, this.timelines)[which];
      const nothing = !one.traces.some((trace) => known(trace.y).length);
      draw(place, one.traces, layout(230, {
        xaxis: xAxis(timeline, { nticks: Math.max(2, Math.floor(place.clientWidth / 90)) }), yaxis: one.axis, showlegend: one.showlegend, ...(nothing ? { annotations: [emptyNote("not known")] } : {}),
      }));
    }

    paintServer(place, name, number) {
      const server = this.serverOf(number, name);
      if (!server) return;
      const beside = this.timelines.map((_, other) => this.serverOf(other, name));
      const painted = serverFigure(this.timelines[number], server, beside);
      draw(place, painted.traces, painted.layout);
    }
  }

  function drawTimelines(element, timelines) {
    if (!pages.has(element)) pages.set(element, new Page(element));
    pages.get(element).show(timelines);
  }

  // -- more points

  const BLOCKS = ["traffic", "replicas", "state"];

  function joined(a, b) {
    if (Array.isArray(a)) return a.length || b.length ? [...a, ...b] : a;
    return Object.fromEntries(Object.keys(a).map((key) => [key, joined(a[key], b[key])]));
  }

  // Of what only one side knows there was none on the other (0), or it is not known (null).
  function joinedCounts(key, names, a, b, lengths, none) {
    const absent = (count) => new Array(count).fill(none);
    return names.map((name) => {
      const [one, other] = [a, b].map((side) => side.find((counts) => counts[key] === name));
      const values = Object.keys(one || other).filter((field) => field !== key);
      return {
        [key]: name,
        ...Object.fromEntries(values.map((field) => [
          field, [...(one ? one[field] : absent(lengths[0])), ...(other ? other[field] : absent(lengths[1]))],
        ])),
      };
    });
  }

  const namesOf = (key, a, b) => [...new Set([...a, ...b].map((counts) => counts[key]))];

  function padded(traffic) {
    const fill = (values) => (values.length ? values : new Array(traffic.t_s.length).fill(null));
    const latencies = (of) => Object.fromEntries(Object.entries(of).map(([key, values]) => [key, fill(values)]));
    return { ...traffic, ttft_ms: latencies(traffic.ttft_ms), itl_ms: latencies(traffic.itl_ms) };
  }

  function trimmed(latencies) {
    return Object.fromEntries(Object.entries(latencies)
      .map(([key, values]) => [key, values.every((value) => value === null) ? [] : values]));
  }

  function joinedServer(a, b) {
    const traffic = joined(padded(a.traffic), padded(b.traffic));
    const names = namesOf("accelerator", a.replicas.by_accelerator, b.replicas.by_accelerator);
    const last = a.missed[a.missed.length - 1];
    const [first, ...rest] = b.missed;
    const one = last && first && last.end_s >= first.start_s;
    return {
      ...a, ...b,
      traffic: { ...traffic, ttft_ms: trimmed(traffic.ttft_ms), itl_ms: trimmed(traffic.itl_ms) },
      replicas: {
        t_s: [...a.replicas.t_s, ...b.replicas.t_s],
        by_accelerator: joinedCounts("accelerator", names, a.replicas.by_accelerator, b.replicas.by_accelerator,
          [a.replicas.t_s.length, b.replicas.t_s.length], 0),
      },
      state: joined(a.state, b.state),
      missed: one ? [...a.missed.slice(0, -1), { start_s: last.start_s, end_s: first.end_s }, ...rest] : [...a.missed, ...b.missed],
      decisions: [...a.decisions, ...b.decisions],
    };
  }

  function joinedFleet(a, b) {
    const names = namesOf("type", a.gpus, b.gpus);
    return {
      ...a, attainment_of: b.attainment_of, gpus_are: [a, b].some((one) => one.gpus_are === "used") ? "used" : "wanted",
      ...Object.fromEntries(["t_s", "cost_usd_per_h", "backlog", "attainment_t_s", "attainment"].map((key) => [key, [...a[key], ...b[key]]])),
      gpus: joinedCounts("type", names, a.gpus, b.gpus, [a.t_s.length, b.t_s.length], null),
    };
  }

  // Drops what is before since_s from a block: all its arrays are as long as its times, or empty.
  function cutBlock(block, first) {
    if (Array.isArray(block)) {
      return block.length && typeof block[0] === "object" && block[0] !== null
        ? block.map((one) => cutBlock(one, first)) : block.slice(first);
    }
    return typeof block === "object" && block !== null
      ? Object.fromEntries(Object.entries(block).map(([key, value]) => [key, cutBlock(value, first)])) : block;
  }

  function cut(timeline, since) {
    const firstOf = (t) => { const place = t.findIndex((at) => at >= since); return place < 0 ? t.length : place; };
    const inTime = (list) => list.filter((one) => one.t_s >= since);
    const fleet = timeline.fleet;
    const first = firstOf(fleet.attainment_t_s);
    return {
      ...timeline, events: inTime(timeline.events),
      fleet: {
        ...fleet, ...cutBlock({ t_s: fleet.t_s, gpus: fleet.gpus, cost_usd_per_h: fleet.cost_usd_per_h, backlog: fleet.backlog }, firstOf(fleet.t_s)),
        attainment_t_s: fleet.attainment_t_s.slice(first), attainment: fleet.attainment.slice(first),
      },
      servers: timeline.servers.map((server) => ({
        ...server, decisions: inTime(server.decisions), missed: server.missed.filter((span) => span.end_s > since),
        ...Object.fromEntries(BLOCKS.map((key) => [key, cutBlock(server[key], firstOf(server[key].t_s))])),
      })),
    };
  }

  // Returns *whole* with *part*, what came after it, appended; nothing older than keepS before the end is kept.
  function mergeTimeline(whole, part, keepS = Infinity) {
    const added = new Map(part.servers.map((server) => [server.name, server]));
    const known = new Set(whole.servers.map((server) => server.name));
    const merged = {
      ...whole, ...part, started: whole.started || part.started, mode: part.mode || whole.mode, fleet: joinedFleet(whole.fleet, part.fleet),
      events: [...whole.events, ...part.events],
      servers: [
        ...whole.servers.map((server) => (added.has(server.name) ? joinedServer(server, added.get(server.name)) : server)),
        ...part.servers.filter((server) => !known.has(server.name)),
      ],
    };
    return Number.isFinite(keepS) ? cut(merged, merged.end_s - keepS) : merged;
  }

  return { FORMAT, drawTimeline: (element, timeline) => drawTimelines(element, [timeline]), drawTimelines, mergeTimeline };
})());
