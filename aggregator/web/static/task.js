// Draws one task: where it is, its curves, its rounds, its privacy, what was refused.

import { barChart, lineChart } from "./charts.js";
import { h, table } from "./dom.js";
import { ago, bytes, count, decimal, duration, percent, signed } from "./text.js";

const STATES = { open: "good live", paused: "warn", finished: "", stopped: "bad" };
const VERDICTS = { promoted: "good", rejected: "bad", candidate: "warn" };

const tile = (name, value, note) => h("div", { class: "card tile" }, h("dt", {}, name), h("dd", {}, value, h("div", { class: "note" }, note)));

export function drawTask({ task, rounds, versions, figures, refusals, privacy }, { now, role, order }) {
  const oldestFirst = [...versions].reverse(), sets = [...new Set(versions.flatMap((one) => Object.keys(one.sets)))].sort();
  return [
    head(task, role, order),
    tiles(task, versions),
    liveRound(task, rounds[0], now),
    h("div", { class: "grid two" }, curves(oldestFirst, sets, rounds)),
    h("div", { class: "grid two" }, traffic(rounds), h("div", { class: "stack" }, promises(privacy, task), refused(refusals))),
    told(figures),
    verdicts(versions, role, order),
    roundTable(rounds),
  ];
}

function head(task, role, order) {
  const verbs = role === "viewer" ? [] : { open: ["pause", "stop"], paused: ["resume", "stop"] }[task.state] ?? [];
  const button = (verb) => h("button", { type: "button", "data-key": verb, onclick: () => order(verb) }, verb[0].toUpperCase() + verb.slice(1));
  return h(
    "div", { class: "row spread head" },
    h("div", { class: "row" }, h("h2", {}, task.task), h("span", { class: `pill ${STATES[task.state]}` }, task.state), h("span", { class: "muted" }, `${task.strategy}, updates ${task.privacy === "secure-sum" ? "in secure sums" : "sealed"}`)),
    h("div", { class: "row" }, verbs.map(button)),
  );
}

function tiles(task, versions) {
  const measured = [...versions].reverse().filter((one) => one.pooled_accuracy !== null);
  const first = measured[0]?.pooled_accuracy ?? null;
  const gain = first === null || task.pooled_accuracy === null ? "" : `${signed(100 * (task.pooled_accuracy - first))} points on version ${measured[0].version}`;
  return h(
    "dl", { class: "grid tiles" },
    tile("Accuracy", percent(task.pooled_accuracy), gain || "no evaluation set"),
    tile("Loss", decimal(task.loss), task.measured_version === null ? "" : `of version ${task.measured_version}`),
    tile("Version", String(task.version), task.n_rounds === null ? "" : `${count(task.n_folded)} of ${count(task.n_rounds)} rounds folded`),
    tile("Updates", count(task.n_updates), `${bytes(task.n_updates ? task.bytes_up / task.n_updates : 0)} sent for each`),
    tile("Traffic", bytes(task.bytes_up + task.bytes_down), `${bytes(task.bytes_up)} up, ${bytes(task.bytes_down)} down`),
  );
}

function liveRound(task, round, now) {
  if (!round || round.state === "folded" || round.state === "abandoned") return null;
  const wanted = task.cohort ?? round.n_participants, left = round.deadline_unix_s - now;
  return h(
    "section", { class: "card", "aria-label": "The round that runs" },
    h("div", { class: "row spread" },
      h("h3", {}, `Round ${round.round}, on version ${round.version}`),
      h("span", { class: `pill ${round.state === "open" ? "good live" : "warn live"}` }, round.state),
    ),
    h("p", { class: "muted" }, `${round.n_updates} of ${wanted} updates are in, ${round.n_participants} devices take part; open for ${duration(now - round.opened_unix_s)}, ${left > 0 ? `${duration(left)} to the deadline` : "the deadline has passed"}`),
    h("progress", { max: String(Math.max(1, wanted)), value: String(round.n_updates), "aria-label": "Updates that are in" }),
  );
}

function curves(versions, sets, rounds) {
  const points = (read) => versions.map((one) => [one.version, read(one)]).filter((point) => point[1] !== null && point[1] !== undefined);
  const parts = sets.length > 1 ? sets : [];
  const trained = [...rounds].reverse().filter((one) => one.loss !== null && one.state === "folded").map((one) => [one.version + 1, one.loss]);
  return [
    lineChart({
      key: "accuracy", title: "Accuracy by version", xName: "version", format: (value) => percent(value), floor: 0,
      series: [{ name: "all sets", points: points((one) => one.pooled_accuracy) }, ...parts.map((name) => ({ name, points: points((one) => one.sets[name]?.accuracy) }))],
    }),
    lineChart({
      key: "loss", title: "Loss by version", xName: "version", format: decimal, floor: 0,
      series: [{ name: "held out, all sets", points: points((one) => one.loss) }, { name: "on devices, while training", points: trained }],
    }),
  ];
}

// What devices were asked to tell of how they learn, and their owners let them; nothing where no task asks.
function told(figures) {
  if (figures.length === 0) return null;
  const names = [...new Set(figures.map((one) => one.name))].sort(), newest = figures[0].round;
  const columns = [
    ["figure", (one) => one.name],
    ["devices", (one) => count(one.n_devices), "number"],
    ["mean", (one) => percent(one.mean), "number"],
    ["lowest", (one) => percent(one.lowest), "number"],
    ["highest", (one) => percent(one.highest), "number"],
  ];
  return h(
    "div", { class: "grid two" },
    lineChart({
      key: "told", title: "What devices tell, mean by round", xName: "round", format: (value) => percent(value),
      series: names.map((name) => ({ name, points: figures.filter((one) => one.name === name).map((one) => [one.round, one.mean]).reverse() })),
    }),
    h("section", { class: "card", "aria-label": "What devices tell" }, h("h3", {}, `What devices tell, round ${newest}`), table("What devices tell", columns, figures.filter((one) => one.round === newest))),
  );
}

function traffic(rounds) {
  const bars = [...rounds].reverse().map((one) => ({ x: one.round, values: [one.bytes_up, one.bytes_down] }));
  return barChart({ key: "bytes", title: "Bytes by round", names: ["from devices", "to devices"], bars, format: bytes, xName: "round" });
}

function refused(refusals) {
  const all = Object.entries(refusals).sort((a, b) => b[1] - a[1]), most = Math.max(1, ...all.map((one) => one[1]));
  const line = ([reason, n]) => h("li", {}, h("code", {}, reason), h("progress", { max: String(most), value: String(n), "aria-hidden": "true" }), h("span", {}, count(n)));
  return h(
    "section", { class: "card", "aria-label": "Refusals" },
    h("h3", {}, "Refused messages, by reason"),
    all.length ? h("ul", { class: "bars" }, all.map(line)) : h("p", { class: "empty" }, "Nothing was refused."),
  );
}

function promises(privacy, task) {
  const facts = [["Updates", privacy.level === "secure-sum" ? "only their sum can be read" : "sealed to the aggregator, read by nobody else"]];
  if (privacy.secure_sum) facts.push(["Secure sum", `${privacy.secure_sum.input_bits} bits a value, clip ${privacy.secure_sum.clip}, against a server that is ${privacy.secure_sum.server}`]);
  if (privacy.sample_dp) for (const [name, value] of Object.entries(privacy.sample_dp)) facts.push([`Examples: ${name.replaceAll("_", " ")}`, String(value)]);
  if (privacy.budget) facts.push(["Epsilon spent", budget(privacy.budget)], ["Noise", `${privacy.budget.mode}, delta ${privacy.budget.delta}, ${privacy.budget.n_rounds} rounds paid for`]);
  else facts.push(["Budget", privacy.sample_dp ? "each device accounts for its own examples" : "none: no differential privacy is promised"]);
  facts.push(["Bundle", h("code", {}, task.bundle_id.slice(0, 16))]);
  return h("section", { class: "card", "aria-label": "Privacy" }, h("h3", {}, "Privacy"), h("dl", { class: "facts" }, facts.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])));
}

function budget({ epsilon_spent, epsilon_budget }) {
  const text = `${epsilon_spent.toFixed(2)} of ${epsilon_budget}`;
  return [text, h("progress", { max: String(epsilon_budget), value: String(epsilon_spent), "aria-label": `Epsilon spent: ${text}` })];
}

function verdicts(versions, role, order) {
  const newest = versions[0]?.version, may = role !== "viewer";
  const action = (one) => {
    if (!may || one.version === newest) return null;
    const verb = one.status === "promoted" ? "rollback" : "promote";
    return h("button", { type: "button", class: "quiet", "data-key": `${verb}-${one.version}`, onclick: () => order(verb, one.version) }, verb === "rollback" ? "Roll back to it" : "Promote");
  };
  const columns = [
    ["version", (one) => String(one.version), "number"],
    ["accuracy", (one) => percent(one.pooled_accuracy), "number"],
    ["loss", (one) => decimal(one.loss), "number"],
    ["updates", (one) => count(one.n_updates), "number"],
    ["state", (one) => h("span", { class: `pill ${VERDICTS[one.status]}`, title: one.why }, one.status)],
    ...(may ? [["", action]] : [["why", (one) => one.why ?? (one.round === null && one.version === 0 ? "the bundle's" : "")]]),
  ];
  return h("section", { class: "card grid", "aria-label": "Versions" }, h("h3", {}, "Versions"), table("Versions", columns, versions));
}

function roundTable(rounds) {
  const columns = [
    ["round", (one) => String(one.round), "number"],
    ["on version", (one) => String(one.version), "number"],
    ["state", (one) => one.state],
    ["devices", (one) => count(one.n_participants), "number"],
    ["updates", (one) => count(one.n_updates), "number"],
    ["loss", (one) => decimal(one.loss), "number"],
    ["took", (one) => (one.closed_unix_s === null ? "–" : duration(one.closed_unix_s - one.opened_unix_s)), "number"],
    ["slowest training", (one) => (one.n_updates ? duration(one.train_s_max) : "–"), "number"],
    ["from devices", (one) => bytes(one.bytes_up), "number"],
    ["to devices", (one) => bytes(one.bytes_down), "number"],
  ];
  return h("section", { class: "card grid", "aria-label": "Rounds" }, h("h3", {}, "Rounds"), table("Rounds", columns, rounds));
}

export function drawDevices({ devices, n_devices }, now) {
  if (devices.length === 0) return h("p", { class: "empty" }, "No device has come yet.");
  const KINDS = { approved: "good", file: "good", pending: "warn", revoked: "bad" };
  const columns = [
    ["device", (one) => one.device],
    ["status", (one) => h("span", { class: `pill ${KINDS[one.status]}` }, one.status === "file" ? "known by file" : one.status)],
    ["last seen", (one) => ago(one.last_seen_unix_s, now), "number"],
    ["rounds", (one) => count(one.n_joined), "number"],
    ["updates", (one) => count(one.n_updates), "number"],
    ["examples trained on", (one) => count(one.n_examples), "number"],
    ["sent", (one) => bytes(one.bytes_up), "number"],
    ["received", (one) => bytes(one.bytes_down), "number"],
  ];
  const more = n_devices > devices.length ? h("p", { class: "muted" }, `The first ${devices.length} of ${count(n_devices)}; the rest: edgefold devices list.`) : null;
  return [table("Devices", columns, devices), more];
}
