/* The live page of a service (inferno/web/live.py): follows its stream of timelines, draws them with
   draw.js, and asks for what its buttons say. A token stays in this page. */
"use strict";

const live = (() => {
  const KEEP_S = 6 * 3600, RETRY_MS = 2000, REST_MS = 500;
  const ROWS_MAX = 100_000; // servers times cycles that the page keeps: some 100 MB
  const ROWS_SHOWN = 200; // of the table of the latest cycle, beyond which a filter finds the rest
  const { figure, make, tableOf } = inferno.parts;
  const find = (id) => document.getElementById(id);
  let token = "";
  let timeline = null;
  let waiting = null; // ends the wait for a token

  const headers = () => (token ? { Authorization: `Bearer ${token}` } : {});
  const pause = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

  // Returns the answer to a request; throws, with the service's own words, if it is refused.
  async function ask(path, options = {}) {
    const answer = await fetch(path, { cache: "no-store", ...options, headers: { ...headers(), ...(options.headers || {}) } });
    if (answer.status === 401 || answer.status === 403) {
      find("access").hidden = false;
      if (!token) throw new Error("a token is needed: enter it above");
      if (answer.status === 401) throw new Error("this token is not the right one");
    }
    return answer;
  }

  async function askJson(path, options = {}) {
    const answer = await ask(path, options);
    const text = await answer.text();
    // A cycle that failed is told of with its record.
    const record = answer.ok || text.includes('"servers"');
    if (!record) throw new Error(messageOf(text) || `status ${answer.status}`);
    return JSON.parse(text);
  }

  // Errors are {"message": one line} everywhere, but for those of a proxy in between.
  function messageOf(text) {
    try { return JSON.parse(text).message; } catch { return text.slice(0, 200); }
  }

  // -- what comes

  const last = (values) => (values && values.length ? values[values.length - 1] : null);

  // Of very many servers those first for which something is to be done: what waits, what changes.
  function worthSeeing(servers) {
    if (servers.length <= ROWS_SHOWN) return servers;
    const urgency = (server) => {
      const decision = last(server.decisions);
      return 2 * (last(server.state.backlog) > 0) + (decision ? 1 * (decision.changed || decision.held) : 0);
    };
    return servers.map((server, place) => [urgency(server), place]).sort(([a, one], [b, other]) => b - a || one - other)
      .slice(0, ROWS_SHOWN).map(([, place]) => servers[place]);
  }

  function latest() {
    const shown = worthSeeing(timeline.servers);
    const left = timeline.servers.length - shown.length;
    const rows = shown.map((server) => {
      const { traffic, state, replicas } = server;
      const decision = last(server.decisions);
      const sum = (key) => replicas.by_accelerator.reduce((all, pool) => all + (last(pool[key]) || 0), 0);
      const starting = sum("starting");
      return [
        server.name, figure(last(traffic.rate_rpm), 1), figure(last(traffic.ttft_ms.mean)), figure(last(traffic.itl_ms.mean), 1),
        figure(last(state.backlog)), `${sum("ready")}${starting ? ` + ${starting} starting` : ""}`,
        decision ? `${decision.replicas} × ${decision.accelerator || "–"}${decision.held ? " (unchanged)" : ""}` : "–",
        decision ? decision.text : "",
      ];
    });
    return tableOf(
      ["server", "requests/\u200Bmin", "TTFT [ms]", "ITL [ms]", "backlog", "ready", document.body.dataset.decided || "decided", "why"], rows,
      rows.length ? `Now, at ${clock(timeline.end_s)}${left ? `: ${ROWS_SHOWN} of ${figure(timeline.servers.length)} servers, those that wait or change first` : ""}`
        : "No cycle has seen a server yet",
    );
  }

  // Puts *fresh* into *place*; who has scrolled there, or is there with the keyboard, stays there.
  function replaceTable(place, fresh) {
    const before = place.querySelector("table");
    if (!before) {
      place.replaceChildren(fresh);
      return;
    }
    before.replaceWith(fresh.querySelector("table"));
    place.querySelector(".caption").textContent = fresh.querySelector(".caption").textContent;
  }

  function clock(t) {
    if (!timeline.started) return `${(t / 60).toFixed(1)} min`;
    return `${new Date(Date.parse(timeline.started) + 1000 * t).toISOString().slice(11, 19)} UTC`;
  }

  // What the loop may do, for nobody to wait for it in vain.
  function tellState() {
    const place = find("state");
    if (!place) return;
    const { mode, paused } = timeline;
    place.className = paused ? "alert" : "note";
    const text = paused ? `Paused: the loop looks and decides, and asks for nothing (${paused}).`
      : mode === "advise" ? "It advises: it decides, and scales nothing (--mode act lets it)." : mode === "act" ? "It acts: what it decides is asked for." : "";
    if (place.textContent !== text) place.textContent = text;
    if (!paused && document.activeElement === find("resume")) find("pause").focus();
    find("resume").hidden = !paused;
  }

  function show() {
    tellState();
    replaceTable(find("latest"), latest());
    inferno.drawTimeline(find("timeline"), timeline);
    document.dispatchEvent(new CustomEvent("timeline"));
  }

  // However fast cycles come, most of the time is left to whoever reads the page and uses it.
  let drawing = null;
  let restMs = 0;
  function showSoon() {
    drawing ??= setTimeout(() => {
      const began = performance.now();
      drawing = null;
      show();
      requestAnimationFrame(() => { restMs = Math.max(REST_MS, 4 * (performance.now() - began)); });
    }, restMs);
  }

  // Hours of few servers, fewer of very many.
  function keptS(part) {
    const times = timeline.fleet.t_s;
    const most = Math.max(2, Math.floor(ROWS_MAX / Math.max(part.servers.length, 1)));
    return times.length < most ? KEEP_S : Math.min(KEEP_S, part.end_s - times[times.length - most]);
  }

  function take(kind, data) {
    const part = JSON.parse(data);
    timeline = kind === "whole" || !timeline ? part : inferno.mergeTimeline(timeline, part, keptS(part));
    showSoon();
  }

  // EventSource could not send a token, so the events are read here.
  async function follow() {
    const answer = await ask(document.body.dataset.stream);
    if (!answer.ok) throw new Error(messageOf(await answer.text()));
    find("access").hidden = true;
    find("connection").textContent = "Live.";
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text += value;
      const events = text.split("\n\n");
      text = events.pop();
      for (const event of events) {
        const fields = Object.fromEntries(event.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)]));
        if (fields.data) take(fields.event, fields.data);
      }
    }
  }

  async function run() {
    for (;;) {
      let told = "the service has ended the stream";
      try {
        await follow();
      } catch (error) {
        told = error.message;
      }
      find("connection").textContent = `Not live: ${told}. ${timeline ? "What is shown is old." : ""}`;
      if (find("access").hidden) await pause(RETRY_MS);
      else await new Promise((resolve) => { waiting = resolve; });
    }
  }

  // -- what is asked

  // Does *work*, for which *button* is the sign, and tells in *place* what came of it.
  async function doing(button, place, work) {
    button.disabled = true;
    place.textContent = "…";
    try {
      place.textContent = await work();
    } catch (error) {
      place.textContent = `Refused: ${error.message}`;
    } finally {
      button.disabled = false;
      if (!button.hidden) button.focus();
    }
  }

  const onPress = (button, place, work) => button.addEventListener("click", () => doing(button, place, work));
  const onSubmit = (form, button, place, work) => form.addEventListener("submit", (event) => {
    event.preventDefault();
    doing(button, place, work);
  });

  function cycleTold(record, mode) {
    if (record.error) return `Cycle ${record.cycle} failed: ${record.error}`;
    const changed = record.servers.filter((row) => row.replicas !== row.wanted || row.accelerator !== row.currentAccelerator);
    const told = changed.slice(0, 5).map((row) => `${row.name}: ${row.wanted} × ${row.currentAccelerator || "–"} → ${row.replicas} × ${row.accelerator}`);
    const more = changed.length > 5 ? `; and ${changed.length - 5} more` : "";
    const verb = mode === "advise" || !record.applied ? "would change" : "changes";
    return `Cycle ${record.cycle} ${verb} ${changed.length ? `${told.join("; ")}${more}` : "nothing"}.`;
  }

  function cycleButton(id, mode) {
    const body = JSON.stringify({ mode });
    onPress(find(id), find("answer"), async () => cycleTold(await askJson("invoke", { method: "POST", body }), mode));
  }

  find("access").addEventListener("submit", (event) => {
    event.preventDefault();
    token = find("token").value.trim();
    find("token").value = "";
    if (waiting) waiting();
  });
  if (find("invoke")) {
    cycleButton("advise", "advise");
    cycleButton("invoke", "act");
    onPress(find("pause"), find("answer"), async () => {
      await askJson("pause", { method: "POST" });
      find("resume").hidden = false;
      return "Paused: the next cycles look and decide, and ask for nothing.";
    });
    onPress(find("resume"), find("answer"), async () => {
      await askJson("resume", { method: "POST" });
      return "Resumed: the next cycle acts, unless something else pauses it.";
    });
  }
  run();

  return { askJson, find, make, onPress, onSubmit, replaceTable, tableOf };
})();
