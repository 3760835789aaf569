// Logs in, asks every two seconds while somebody looks, and draws.

import { ask, forgetToken, hasToken, keepToken, Refused, takeTokenFromAddress } from "./api.js";
import { h, replace } from "./dom.js";
import { drawDevices, drawTask } from "./task.js";

const EVERY_MS = 2000, DEVICES_EVERY_MS = 10_000, PAGE = 300, TROUBLE_MS = 12_000;
const at = (id) => document.getElementById(id);
const state = { me: null, task: null, timer: 0, devicesDue: 0, drawn: "", troubleUntil: 0 };

function show(isIn) {
  at("login").hidden = isIn;
  for (const id of ["dashboard", "logout", "health"]) at(id).hidden = !isIn;
}

function logOut(why = "") {
  clearTimeout(state.timer);
  forgetToken();
  Object.assign(state, { me: null, task: null, devicesDue: 0, drawn: "" });
  show(false);
  at("login-error").textContent = why;
  at("token").value = "";
  at("token").focus();
}

async function begin() {
  try {
    state.me = await ask("me");
  } catch (error) {
    return logOut(error instanceof Refused && error.status !== 401 ? error.message : "This token is not good, or has expired.");
  }
  show(true);
  return turn();
}

async function turn() {
  clearTimeout(state.timer);
  if (document.hidden || state.me === null) return;
  try {
    await refresh();
    at("trouble").hidden = Date.now() >= state.troubleUntil;
  } catch (error) {
    if (error instanceof Refused && error.status === 401) return logOut("The token has expired or was taken back.");
    at("trouble").textContent = error instanceof Refused ? error.message : "The service does not answer; the page keeps asking.";
    at("trouble").hidden = false;
  }
  state.timer = setTimeout(turn, EVERY_MS);
}

async function refresh() {
  const [service, { tasks }] = await Promise.all([ask("service"), ask("tasks")]);
  drawService(service);
  if (!tasks.some((one) => one.task === state.task)) state.task = (tasks.find((one) => one.state === "open") ?? tasks[0])?.task ?? null;
  drawTabs(tasks);
  if (state.task === null) replace(at("task"), h("p", { class: "empty" }, "No task has begun. Create one: edgefold task create FILE.toml"));
  else await drawChosen(service.now_unix_s);
  if (Date.now() >= state.devicesDue) {
    replace(at("devices"), drawDevices(await ask("devices?limit=200"), service.now_unix_s));
    state.devicesDue = Date.now() + DEVICES_EVERY_MS;
  }
}

async function drawChosen(now) {
  const name = state.task, path = `tasks/${encodeURIComponent(name)}`;
  const lists = ["rounds", "versions", "device-figures"].map((one) => `${path}/${one}?limit=${PAGE}`);
  const [task, { rounds }, { versions }, { figures }, { refusals }, privacy] = await Promise.all(
    [path, ...lists, `${path}/refusals`, `${path}/privacy`].map((one) => ask(one)),
  );
  if (name !== state.task) return; // somebody chose another while we asked
  const facts = { task, rounds, versions, figures, refusals, privacy };
  const isMoving = rounds[0] && ["open", "closing"].includes(rounds[0].state);
  const print = JSON.stringify(facts);
  if (print === state.drawn && !isMoving) return;
  state.drawn = print;
  replace(at("task"), drawTask(facts, { now, role: state.me.role, order }));
}

function drawService(service) {
  const isWell = service.is_turning && service.is_link_up;
  at("fleet").textContent = service.fleet;
  at("health").className = `pill ${isWell ? "good" : "bad"}`;
  const words = isWell ? "running" : service.is_turning ? "no broker" : "stalled";
  if (at("health").textContent !== words) at("health").textContent = words;
  at("version").textContent = `edgefold ${service.edgefold} · ${state.me.name} (${state.me.role})`;
}

function drawTabs(tasks) {
  const tab = (one) => h("li", {}, h("button", {
    type: "button", "data-key": `task-${one.task}`, "aria-current": one.task === state.task ? "true" : "false", onclick: () => { state.task = one.task; turn(); },
  }, one.task));
  at("tasks").hidden = tasks.length < 2;
  replace(at("tasks"), tasks.map(tab));
}

async function order(verb, version) {
  const what = version === undefined ? `${verb} ${state.task}` : `${verb} ${state.task}: version ${version}`;
  if (["stop", "rollback", "promote"].includes(verb) && !confirm(`${what}?`)) return;
  try {
    await ask(`tasks/${encodeURIComponent(state.task)}/commands`, version === undefined ? { verb } : { verb, version });
    setTimeout(turn, 1200); // the service looks once a second
  } catch (error) {
    at("trouble").textContent = error.message;
    at("trouble").hidden = false;
    state.troubleUntil = Date.now() + TROUBLE_MS;
  }
}

at("login").addEventListener("submit", (event) => {
  event.preventDefault();
  keepToken(at("token").value.trim());
  begin();
});
at("logout").addEventListener("click", () => logOut());
document.addEventListener("visibilitychange", turn);
addEventListener("hashchange", () => { takeTokenFromAddress(); begin(); });

takeTokenFromAddress();
if (hasToken()) begin();
else logOut();
