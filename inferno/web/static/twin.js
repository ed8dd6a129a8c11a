/* The live page of the twin (inferno/web/twin_page.py), beside what live.js does: nodes, pods and
   faults, the load of a server and faults on demand, by the API that kubectl uses. */
"use strict";

(() => {
  const { askJson, find, make, onSubmit, onPress, replaceTable, tableOf } = live;
  const PREFIX = "inferno.server.";
  const DELAY_S = 5;
  let deployments = new Map();

  const itemsOf = async (path) => (await askJson(path)).items;
  const gpusOf = (resources) => Object.entries(resources || {})
    .filter(([name]) => name.includes("/")).reduce((sum, [, count]) => sum + Number(count), 0);
  const conditionOf = (object, type) => ((object.status || {}).conditions || []).find((one) => one.type === type);

  // -- what there is

  function podRow(pod) {
    const container = pod.spec.containers[0];
    const ready = (conditionOf(pod, "Ready") || {}).status === "True";
    const unplaced = conditionOf(pod, "PodScheduled");
    const statuses = (pod.status.containerStatuses || [])[0] || {};
    const waits = unplaced && unplaced.status === "False" ? unplaced.reason : statuses.state && statuses.state.waiting && statuses.state.waiting.reason;
    const state = pod.metadata.deletionTimestamp ? "Terminating" : ready ? "ready" : waits || `${pod.status.phase}, not ready`;
    return [
      pod.metadata.name, pod.metadata.namespace, state, pod.spec.nodeName || "–",
      String(gpusOf((container.resources || {}).limits)), String(statuses.restartCount || 0),
    ];
  }

  function nodeRows(nodes, pods) {
    const used = new Map();
    for (const pod of pods) {
      const gpus = gpusOf((pod.spec.containers[0].resources || {}).limits);
      used.set(pod.spec.nodeName, (used.get(pod.spec.nodeName) || 0) + gpus);
    }
    const rows = nodes.map((node) => {
      const [, type] = Object.entries(node.metadata.labels || {}).find(([name]) => name.endsWith(".product")) || [];
      const ready = (conditionOf(node, "Ready") || {}).status === "True";
      return [node.metadata.name, type || "–", ready ? "ready" : "NotReady", `${used.get(node.metadata.name) || 0} of ${gpusOf(node.status.capacity)}`];
    });
    // What is lost or used first: of a thousand nodes those are few.
    const rank = ([, , state, gpus]) => (state === "ready" ? (gpus.startsWith("0 ") ? 2 : 1) : 0);
    return rows.sort((a, b) => rank(a) - rank(b) || a[0].localeCompare(b[0], "en", { numeric: true }));
  }

  function options(list, names) {
    if ([...list.children].map((one) => one.value).join("\n") === names.join("\n")) return;
    const chosen = list.value;
    list.replaceChildren(...names.map((value) => make("option", { value }, list.id === "known" ? "" : value)));
    if (names.includes(chosen)) list.value = chosen;
  }

  function showFaults({ faults, nowS }) {
    const rows = faults.map((one) => [
      one.kind, (one.names || ["all"]).join(", "), one.untilS ? `${Math.max(0, one.untilS - nowS).toFixed(0)} s more` : "until it is ended", String(one.suffered),
    ]);
    if (rows.length) replaceTable(find("faults"), tableOf(["fault", "names", "for", "requests struck"], rows, "Faults in force"));
    else find("faults").replaceChildren();
  }

  let looking = false;
  async function look() {
    if (looking) return;
    looking = true;
    try {
      const [nodes, pods, managed, faults] = await Promise.all([
        itemsOf("api/v1/nodes"), itemsOf("api/v1/pods"),
        itemsOf(`apis/apps/v1/deployments?labelSelector=${PREFIX}managed%3Dtrue`), askJson("twin/faults"),
      ]);
      replaceTable(find("nodes"), tableOf(["node", "type", "state", "GPUs in use"], nodeRows(nodes, pods), `${nodes.length} nodes`));
      replaceTable(find("pods"), tableOf(["pod", "namespace", "state", "node", "GPUs", "restarts"], pods.map(podRow), `${pods.length} pods`));
      showFaults(faults);
      const first = deployments.size === 0;
      deployments = new Map(managed.map((one) => [`${one.metadata.namespace}/${one.metadata.name}`, one]));
      options(find("server"), [...deployments.keys()]);
      options(find("known"), [...managed, ...nodes, ...pods].map((one) => one.metadata.name));
      if (first) fillLoad();
    } catch (error) {
      find("fault-answer").textContent = `Nodes and pods are old: ${error.message}`;
    } finally {
      looking = false;
    }
  }

  // -- what is asked

  function fillLoad() {
    const chosen = deployments.get(find("server").value);
    if (!chosen) return;
    const labels = chosen.metadata.labels;
    find("rpm").value = labels[`${PREFIX}load.rpm`] || "0";
    find("in-tokens").value = labels[`${PREFIX}load.intokens`] || "128";
    find("out-tokens").value = labels[`${PREFIX}load.outtokens`] || labels[`${PREFIX}load.numtokens`] || "128";
  }

  onSubmit(find("load"), find("set-load"), find("load-answer"), async () => {
    const [namespace, name] = find("server").value.split("/");
    const labels = {
      [`${PREFIX}load.rpm`]: find("rpm").value, [`${PREFIX}load.intokens`]: find("in-tokens").value,
      [`${PREFIX}load.outtokens`]: find("out-tokens").value,
    };
    const path = `apis/apps/v1/namespaces/${namespace}/deployments/${name}?fieldManager=live-page`;
    await askJson(path, { method: "PATCH", body: JSON.stringify({ metadata: { labels } }), headers: { "Content-Type": "application/merge-patch+json" } });
    await look();
    return `${name} is sent ${find("rpm").value} requests a minute.`;
  });

  const setFaults = async (faults) => {
    showFaults(await askJson("twin/faults", { method: "PUT", body: JSON.stringify({ faults }), headers: { "Content-Type": "application/json" } }));
  };

  onSubmit(find("fault"), find("inject"), find("fault-answer"), async () => {
    const { faults, nowS } = await askJson("twin/faults");
    const kind = find("kind").value;
    const names = find("names").value.split(/[\s,]+/).filter(Boolean);
    await setFaults([...faults, {
      kind, ...(names.length ? { names } : {}), fromS: nowS, untilS: nowS + Number(find("seconds").value), ...(kind === "delay" ? { delayS: DELAY_S } : {}),
    }]);
    return `${kind}: in force.`;
  });

  onPress(find("end-faults"), find("fault-answer"), async () => {
    await setFaults([]);
    return "No fault is in force.";
  });

  find("server").addEventListener("change", fillLoad);
  document.addEventListener("timeline", look);
})();
