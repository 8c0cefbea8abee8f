// The rating page: shows the question that /next returns and posts the rater's verdicts.
// All text is inserted by textContent, so nothing that a model wrote is parsed as markup.
// If a request fails, the question stays on the page and can be rated again.

const POLL = 300; // ms between two requests while no question is open
const SLOW_POLL = 5000; // ms between two requests while the tuner is done or the server does not reply
const SETTLE = 180; // ms after a new question in which keys are ignored: the second press of a double press
const MESSAGE_TIME = 6000; // ms for which a message is shown
const VERDICTS = { t: "tie", b: "bad", s: "skip" };
const TITLE = "Which answer is better?";

const element = (id) => document.getElementById(id);
let current = null; // the question on the page
let best = null; // the place of the best answer, while the worst one may still be named
const drafts = new Map(); // what was written, by question: an undo or a lost server loses no text
let marking = false; // whether differences between the answers are marked
let commands = {}; // what to type where the page or the tuner has ended
let stopAsked = -Infinity; // when the first of two presses of "stop here" was, in ms
let shownAt = 0; // when it appeared, in ms
let busy = false; // whether a verdict or an undo is being sent
let pollTimer = 0;
let messageTimer = 0;

async function request(name, body) {
  const options = { cache: "no-store", credentials: "omit" };
  if (body) {
    Object.assign(options, { method: "POST", headers: { "Content-Type": "application/json" } });
    options.body = JSON.stringify(body);
  }
  const reply = await fetch(name, options);
  if (!reply.ok) throw Object.assign(new Error((await reply.text()).trim()), { status: reply.status });
  return reply.json();
}

function schedulePoll(wait) {
  clearTimeout(pollTimer);
  pollTimer = setTimeout(poll, wait);
}

async function poll() {
  clearTimeout(pollTimer);
  if (busy) return;
  try {
    const reply = await request("next");
    if (!busy) show(reply);
  } catch (error) {
    showError(error);
  }
}

async function send(name, body) {
  if (busy) return;
  busy = true;
  clearTimeout(pollTimer);
  document.body.classList.add("busy");
  try {
    const reply = await request(name, body);
    busy = false;
    if (reply.taken === false) showMessage("This question was already rated.");
    else if (reply.undo === "used") showMessage("Rate this again. The tuner has used the old rating; the new one counts from here.");
    else if (reply.undo === "nothing") showMessage("There is nothing to undo.");
    else if (reply.undo === "undone") showMessage("Undone. Rate this question again.");
    else showMessage("");
    show(reply);
  } catch (error) {
    busy = false;
    if (current && error.status !== 404) {
      const start = `This page's server is not running. Type ${commands.page ?? "zotune rate RUN"}`;
      showMessage(`Not saved: ${error.status ? error.message : start}`);
    } else showError(error);
  } finally {
    document.body.classList.remove("busy");
  }
}

function rate(verdict, more = {}) {
  if (current) send("answer", { id: current.id, verdict, ...more });
}

// Of two answers one choice says all. Of more, the best one is named first, then the worst one or none.
function choose(key) {
  if (!current) return;
  if (current.answers.length < 3) rate(key);
  else if (best === null) markBest(key);
  else if (best === key) markBest(null);
  else rate(best, { worst: key });
}

function markBest(key) {
  const changed = best !== key;
  best = key;
  const many = current.answers.length > 2;
  element("heading").textContent = key ? "And the worst?" : many ? "Which answer is the best?" : TITLE;
  document.querySelectorAll("#answers article").forEach((card, index) => {
    const place = String(index + 1);
    const mine = key === place;
    card.classList.toggle("best", mine);
    const label = card.querySelector(".choose span");
    const aim = key ? "as the worst" : "as the best";
    label.textContent = mine ? "The best: take back" : key ? "The worst" : many ? "The best" : "This one";
    label.setAttribute(
      "aria-label",
      mine ? `Answer ${place} is the best: take back` : `Choose answer ${place}${many ? ` ${aim}` : ""}`,
    );
  });
  element("no-worst").hidden = key === null;
  for (const verdict of Object.values(VERDICTS)) element(verdict).hidden = key !== null;
  if (changed && key) element("announcement").textContent = `Answer ${key} is the best. Name the worst, or press Enter`;
}

function forgetBest() {
  best = null;
  element("no-worst").hidden = true;
}

function draftKey() {
  return JSON.stringify([current.prompt, ...[...current.answers].sort()]);
}

function openEditor() {
  if (!current || element("own").hidden) return;
  markBest(null);
  element("written").value = drafts.get(draftKey()) ?? "";
  element("begin").replaceChildren(...current.answers.map(beginButton));
  element("editor").hidden = false;
  element("write").setAttribute("aria-expanded", "true");
  element("written").focus();
  element("editor").scrollIntoView({ block: "nearest" });
}

function beginButton(text, index) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = `Begin with ${index + 1}`;
  button.addEventListener("click", () => {
    element("written").value = text;
    element("written").dispatchEvent(new Event("input"));
    element("written").focus();
  });
  return button;
}

function closeEditor() {
  const hadFocus = document.activeElement?.closest("#editor");
  element("editor").hidden = true;
  element("write").setAttribute("aria-expanded", "false");
  if (hadFocus) (current ? element("write") : document.body).focus({ preventScroll: true });
}

function useWritten() {
  const text = element("written").value;
  if (!text.trim()) {
    showMessage("Write an answer first, or begin with one of those above.");
    element("written").focus();
  } else rate("written", { text });
}

function show({ question, progress, commands: known, outcome }) {
  const isNew = question && question.id !== current?.id;
  commands = known ?? commands;
  showStatus(progress);
  showReport(progress);
  element("dock").hidden = !progress || progress.done || (!question && !progress.answered);
  for (const verdict of [...Object.values(VERDICTS), "differences"]) element(verdict).hidden = !question;
  element("question").hidden = !question;
  element("pause").hidden = Boolean(question);
  current = question;
  if (!question) forgetBest();
  element("own").hidden = !question || !progress?.writing;
  if (isNew) showQuestion(question);
  else if (question) markBest(best);
  if (question) return;
  document.title = TITLE;
  showWaiting(progress, outcome);
}

function showQuestion(question) {
  const count = question.answers.length;
  closeEditor();
  const hadFocus = document.activeElement?.closest("#answers");
  fill(element("prompt"), question.prompt);
  element("bad-label").textContent = count > 2 ? "All bad" : "Both bad";
  element("answers").dataset.many = count;
  element("answers").replaceChildren(...question.answers.map(answerCard));
  markBest(null);
  markDifferences();
  element("question").dataset.id = question.id;
  shownAt = performance.now();
  window.scrollTo(0, 0);
  for (const part of [element("prompt"), element("answers")]) {
    part.classList.remove("new");
    void part.offsetWidth; // a reflow restarts the animation
    part.classList.add("new");
  }
  if (hadFocus) element("heading").focus({ preventScroll: true });
  element("announcement").textContent = `New question with ${count} answers`;
  if (document.hidden) document.title = "● A question is waiting";
}

function answerCard(text, index) {
  const key = String(index + 1);
  const card = document.createElement("article");
  const body = document.createElement("div");
  const foot = document.createElement("div");
  const button = document.createElement("button");
  const badge = document.createElement("kbd");
  const label = document.createElement("span");
  card.setAttribute("aria-label", `Answer ${key}`);
  body.className = "text";
  body.dir = "auto";
  fill(body, text);
  foot.className = "foot";
  button.type = "button";
  button.className = "choose";
  button.setAttribute("aria-keyshortcuts", key);
  badge.textContent = key;
  button.append(badge, label);
  button.addEventListener("click", () => choose(key));
  foot.append(button);
  card.append(body, foot);
  return card;
}

function fill(box, text) {
  const empty = !text.trim();
  box.replaceChildren(...(empty ? ["(empty)"] : withoutIndent([text])));
  box.classList.toggle("empty", empty);
}

// A single space before the first word belongs to the text, but looks like an indent: it is not displayed.
function withoutIndent(parts) {
  if (typeof parts[0] !== "string" || !/^ (?! )/.test(parts[0])) return parts;
  const lead = Object.assign(document.createElement("span"), { className: "lead", textContent: " " });
  return [lead, parts[0].slice(1), ...parts.slice(1)];
}

// Differences: words of an answer that the other answers do not have at this place (two answers: the longest common
// subsequence of words), or that no other answer has (more answers).
function markDifferences() {
  element("differences").setAttribute("aria-pressed", String(marking));
  if (!current) return;
  const pieces = current.answers.map((text) => text.match(/\s+|[^\s]+/g) ?? []);
  const words = pieces.map((list) => list.filter((piece) => piece.trim()));
  document.querySelectorAll("#answers .text").forEach((box, index) => {
    if (!marking || box.classList.contains("empty")) return fill(box, current.answers[index]);
    const others = words.filter((_, other) => other !== index);
    const common = others.length === 1 ? inCommon(words[index], others[0]) : shared(words[index], others);
    let place = 0;
    const parts = pieces[index].map((piece) =>
      !piece.trim() || common.has(place++)
        ? piece
        : Object.assign(document.createElement("mark"), { textContent: piece }),
    );
    box.replaceChildren(...withoutIndent(parts));
  });
}

function shared(words, others) {
  const elsewhere = new Set(others.flat());
  return new Set([...words.keys()].filter((place) => elsewhere.has(words[place])));
}

function inCommon(a, b) {
  if (a.length * b.length > 4e6) return shared(a, [b]);
  const width = b.length + 1;
  const lengths = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      lengths[i * width + j] =
        a[i] === b[j]
          ? lengths[(i + 1) * width + j + 1] + 1
          : Math.max(lengths[(i + 1) * width + j], lengths[i * width + j + 1]);
    }
  }
  const common = new Set();
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    if (a[i] === b[j]) {
      common.add(i++);
      j++;
    } else if (lengths[(i + 1) * width + j] >= lengths[i * width + j + 1]) i++;
    else j++;
  }
  return common;
}

function showReport(progress) {
  const report = progress?.report;
  const box = element("report");
  const empty = !report?.predicted && !report?.blind && !report?.samples.length && !report?.advice;
  box.hidden = empty || progress.done;
  if (box.hidden) return;
  const share = (x) => `${Math.round(100 * x)} %`;
  const parts = [];
  if (report.predicted) {
    const { rate, low, high, answers } = report.predicted;
    parts.push("The model now would win ", Object.assign(document.createElement("strong"), { textContent: share(rate) }));
    parts.push(` (${Math.round(100 * low)} to ${share(high)}) against the base model, by your ${answers} choices so far`);
  } else parts.push("A few more choices, and the share that the model now wins against the base model appears here");
  if (report.blind) {
    const count = report.blind.wins + report.blind.losses + report.blind.ties;
    parts.push(` · blind questions among the others: ${share(report.blind.rate)} of ${count}`);
  }
  for (const line of report.raters ?? []) parts.push(` · ${line}`);
  box.dataset.enough = String(Boolean(report.enough));
  element("rate").replaceChildren(...parts);
  element("advice").textContent = report.advice ?? "";
  showWish(report, progress.wish ?? "");
  element("stop").hidden = progress.stopping;
  element("stop-label").textContent = report.enough ? "Good enough: stop here" : "Stop here";
  element("samples-button").hidden = !report.samples.length;
  const samples = JSON.stringify(report.samples);
  if (element("samples").dataset.of === samples) return;
  element("samples").dataset.of = samples;
  element("samples").replaceChildren(...report.samples.map(sampleRow));
}

// The wish in words: the field keeps what is typed in it while questions come and go.
function showWish(report, wish) {
  element("wish").hidden = !report.wider && !wish;
  element("wish-now").textContent = wish
    ? `Answers of the next steps are written with “${wish}” in mind. The tuned model is never shown these words.`
    : "";
}

function sampleRow({ prompt, before, now }) {
  const row = document.createElement("div");
  row.className = "sample";
  row.append(Object.assign(document.createElement("h2"), { textContent: prompt, dir: "auto" }));
  for (const [title, text] of [["Then: the base model", before], ["Now", now]]) {
    const part = Object.assign(document.createElement("p"), { dir: "auto" });
    part.append(Object.assign(document.createElement("b"), { textContent: title }), text.trim() ? text : "(empty)");
    row.append(part);
  }
  return row;
}

function toggleSamples() {
  const open = element("samples").hidden;
  element("samples").hidden = !open;
  element("samples-button").setAttribute("aria-expanded", String(open));
}

function stopHere() {
  if (element("report").hidden || element("stop").hidden) return;
  if (performance.now() - stopAsked > MESSAGE_TIME) {
    stopAsked = performance.now();
    showMessage("Press X again to end the tuning. A few questions then compare the model before and after.");
  } else send("stop", {});
}

function showStatus(progress) {
  const bar = element("bar");
  const parts = [];
  bar.hidden = !progress?.planned;
  if (progress) {
    if (progress.planned) {
      bar.max = progress.planned;
      bar.value = progress.answered;
      parts.push(`${progress.answered} of ${progress.planned}`);
    } else if (progress.answered) parts.push(`${progress.answered} rated`);
    if (progress.left !== null && progress.left > 0 && !progress.done) parts.push(`${duration(progress.left)} left`);
    if (progress.repeated) parts.push(`same rating on ${progress.agreed} of ${progress.repeated} repeats`);
  }
  element("status").replaceChildren(
    ...parts.map((text) => Object.assign(document.createElement("span"), { textContent: text })),
  );
  const tuner = element("tuner");
  const state = !progress ? "" : progress.done ? "done" : progress.running ? "running" : "stopped";
  tuner.dataset.state = state;
  tuner.textContent = { running: progress?.state || "tuner running", stopped: "tuner not running" }[state] ?? "";
}

function duration(seconds) {
  const minutes = Math.round(seconds / 60);
  if (minutes < 1) return "under a minute";
  if (minutes < 60) return `about ${minutes} min`;
  return `about ${Math.floor(minutes / 60)} h ${minutes % 60 ? `${minutes % 60} min` : ""}`.trim();
}

function showWaiting(progress, outcome) {
  const started = progress && progress.answered > 0;
  if (progress?.done) {
    const repeats = progress.repeated
      ? ` ${progress.agreed} of ${progress.repeated} repeated questions got the same rating.`
      : "";
    const count = progress.answered === 1 ? "1 question" : `${progress.answered} questions`;
    showPause("done", "All done, thank you", `You rated ${count}.${repeats} ${outcome || ""} You can close this page.`);
    schedulePoll(SLOW_POLL);
  } else if (progress?.running) {
    const activity = progress.state ? `The tuner is busy: ${progress.state}` : "The tuner is busy.";
    showPause("wait", started ? "Waiting for the next question" : "Waiting for the first question", activity);
    schedulePoll(POLL);
  } else if (started || progress?.planned || progress?.state) {
    showPause("still", "The tuner is not running", "Your ratings are saved, and this page continues after:", commands.tuner);
    schedulePoll(POLL);
  } else {
    showPause("wait", "Waiting for the tuner", "The first question will appear here. Leave this page open.");
    schedulePoll(POLL);
  }
}

function showError(error) {
  if (!error.status && !element("pause").hidden && element("mark").dataset.kind === "done") {
    schedulePoll(SLOW_POLL); // the server ended after the last rating, and no rating is missing
  } else if (error.status === 404) {
    showUnavailable(
      "This address is no longer valid",
      "zotune was started again: open the address that it printed last. Your ratings are saved. A new one is printed by:",
      commands.page,
    );
  } else if (error.status) {
    showUnavailable("The ratings cannot be read", error.message);
    schedulePoll(SLOW_POLL);
  } else {
    showUnavailable(
      "This page's server is not running",
      "Your ratings are saved. Start it again, and this page continues, or open the address that it prints:",
      commands.page,
    );
    schedulePoll(SLOW_POLL);
  }
}

function showUnavailable(title, text, command) {
  current = null;
  forgetBest();
  element("report").hidden = true;
  showStatus(null);
  element("dock").hidden = true;
  element("question").hidden = true;
  element("pause").hidden = false;
  showPause("still", title, text, command);
}

function showPause(kind, title, text, command) {
  element("pause-command").hidden = !command;
  element("command").textContent = command ?? "";
  element("mark").dataset.kind = kind;
  for (const [id, content] of [["pause-title", title], ["pause-text", text]]) {
    if (element(id).textContent !== content) element(id).textContent = content;
  }
  if (element("announcement").textContent !== title) element("announcement").textContent = title;
}

function toggleDifferences() {
  marking = !marking;
  markDifferences();
}

function showMessage(text) {
  clearTimeout(messageTimer);
  element("message").textContent = text;
  if (text) messageTimer = setTimeout(() => showMessage(""), MESSAGE_TIME);
}

document.addEventListener("keydown", (event) => {
  if (event.target.id === "written" && !event.isComposing) {
    if (event.key === "Escape") closeEditor();
    else if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.repeat) useWritten();
    else return;
    event.preventDefault();
    return;
  }
  if (event.target.matches?.("input, textarea")) return; // somebody is typing
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.isComposing) return;
  const key = event.key.toLowerCase();
  if ((key === "u" || key === "escape") && best !== null) markBest(null);
  else if (key === "u" && !element("dock").hidden) send("undo", {});
  else if (key === "d" && current) toggleDifferences();
  else if (key === "n" && !element("report").hidden && !element("samples-button").hidden) toggleSamples();
  else if (key === "x" && !element("report").hidden) stopHere();
  else if (!current || performance.now() - shownAt < SETTLE) return;
  else if (key in VERDICTS) rate(VERDICTS[key]);
  else if (/^[1-9]$/.test(key) && Number(key) <= current.answers.length) choose(key);
  else if (key === "enter" && best !== null && !event.target.matches?.("button")) rate(best);
  else if (key === "e" && !element("own").hidden) openEditor();
  else return;
  event.preventDefault();
});
for (const verdict of Object.values(VERDICTS)) element(verdict).addEventListener("click", () => rate(verdict));
element("undo").addEventListener("click", () => (best !== null ? markBest(null) : send("undo", {})));
element("no-worst").addEventListener("click", () => rate(best));
element("write").addEventListener("click", () => (element("editor").hidden ? openEditor() : closeEditor()));
element("cancel").addEventListener("click", closeEditor);
element("editor").addEventListener("submit", (event) => {
  event.preventDefault();
  useWritten();
});
element("written").addEventListener("input", () => current && drafts.set(draftKey(), element("written").value));
element("differences").addEventListener("click", toggleDifferences);
element("samples-button").addEventListener("click", toggleSamples);
element("stop").addEventListener("click", stopHere);
element("wish").addEventListener("submit", (event) => {
  event.preventDefault();
  element("wish-text").blur();
  send("wish", { text: element("wish-text").value });
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  document.title = TITLE;
  poll(); // the question may have been rated elsewhere, and the time of a verdict counts from this request
});
poll();
