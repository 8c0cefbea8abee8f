// The rating page: shows the question that /next returns and posts the rater's verdicts.
// All text is inserted by textContent, so nothing that a model wrote is parsed as markup.
// If a request fails, the question stays on the page and can be rated again.

const POLL = 1200; // ms between two requests while no question is open
const SLOW_POLL = 5000; // ms between two requests while the tuner is done or the server does not reply
const SETTLE = 180; // ms after a new question in which keys are ignored: the second press of a double press
const MESSAGE_TIME = 6000; // ms for which a message is shown
const VERDICTS = { t: "tie", b: "bad", s: "skip" };
const TITLE = "Which answer is better?";

const element = (id) => document.getElementById(id);
let current = null; // the question on the page
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
    else if (reply.undo === "used") showMessage("The tuner has already used that rating, so it cannot be undone.");
    else if (reply.undo === "nothing") showMessage("There is nothing to undo.");
    else if (reply.undo === "undone") showMessage("Undone. Rate this question again.");
    else showMessage("");
    show(reply);
  } catch (error) {
    busy = false;
    if (current && error.status !== 404) {
      showMessage(`Not saved: ${error.status ? error.message : "zotune is not running. Start it again."}`);
    } else showError(error);
  } finally {
    document.body.classList.remove("busy");
  }
}

function rate(verdict) {
  if (current) send("answer", { id: current.id, verdict });
}

function show({ question, progress }) {
  const isNew = question && question.id !== current?.id;
  showStatus(progress);
  element("dock").hidden = !progress || progress.done || (!question && !progress.answered);
  for (const verdict of Object.values(VERDICTS)) element(verdict).hidden = !question;
  element("question").hidden = !question;
  element("pause").hidden = Boolean(question);
  current = question;
  if (isNew) showQuestion(question);
  if (question) return;
  document.title = TITLE;
  showWaiting(progress);
}

function showQuestion(question) {
  const count = question.answers.length;
  const hadFocus = document.activeElement?.closest("#answers");
  fill(element("prompt"), question.prompt);
  element("bad-label").textContent = count > 2 ? "All bad" : "Both bad";
  element("heading").textContent = count > 2 ? "Which answer is the best?" : TITLE;
  element("answers").dataset.many = count;
  element("answers").replaceChildren(...question.answers.map(answerCard));
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
  label.textContent = "This one";
  label.setAttribute("aria-label", `Choose answer ${key}`);
  button.append(badge, label);
  button.addEventListener("click", () => rate(key));
  foot.append(button);
  card.append(body, foot);
  return card;
}

function fill(box, text) {
  const empty = !text.trim();
  box.textContent = empty ? "(empty)" : text;
  box.classList.toggle("empty", empty);
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

function showWaiting(progress) {
  const started = progress && progress.answered > 0;
  if (progress?.done) {
    const repeats = progress.repeated
      ? ` ${progress.agreed} of ${progress.repeated} repeated questions got the same rating.`
      : "";
    const count = progress.answered === 1 ? "1 question" : `${progress.answered} questions`;
    showPause("done", "All done, thank you", `You rated ${count}.${repeats} You can close this page.`);
    schedulePoll(SLOW_POLL);
  } else if (progress?.running) {
    const activity = progress.state ? `The tuner is busy: ${progress.state}` : "The tuner is busy.";
    showPause("wait", started ? "Waiting for the next question" : "Waiting for the first question", activity);
    schedulePoll(POLL);
  } else if (started || progress?.planned || progress?.state) {
    showPause("still", "The tuner is not running", "Your ratings are saved. Start it again, and this page continues.");
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
    showUnavailable("This address is no longer valid", "zotune was started again: open the address that it printed last.");
  } else if (error.status) {
    showUnavailable("The ratings cannot be read", error.message);
    schedulePoll(SLOW_POLL);
  } else {
    showUnavailable(
      "zotune is not running",
      "Your ratings are saved. Start zotune again and open the address that it prints.",
    );
    schedulePoll(SLOW_POLL);
  }
}

function showUnavailable(title, text) {
  current = null;
  showStatus(null);
  element("dock").hidden = true;
  element("question").hidden = true;
  element("pause").hidden = false;
  showPause("still", title, text);
}

function showPause(kind, title, text) {
  element("mark").dataset.kind = kind;
  for (const [id, content] of [["pause-title", title], ["pause-text", text]]) {
    if (element(id).textContent !== content) element(id).textContent = content;
  }
  if (element("announcement").textContent !== title) element("announcement").textContent = title;
}

function showMessage(text) {
  clearTimeout(messageTimer);
  element("message").textContent = text;
  if (text) messageTimer = setTimeout(() => showMessage(""), MESSAGE_TIME);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.isComposing) return;
  const key = event.key.toLowerCase();
  if (key === "u" && !element("dock").hidden) send("undo", {});
  else if (!current || performance.now() - shownAt < SETTLE) return;
  else if (key in VERDICTS) rate(VERDICTS[key]);
  else if (/^[1-9]$/.test(key) && Number(key) <= current.answers.length) rate(key);
  else return;
  event.preventDefault();
});
for (const verdict of Object.values(VERDICTS)) element(verdict).addEventListener("click", () => rate(verdict));
element("undo").addEventListener("click", () => send("undo", {}));
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  document.title = TITLE;
  poll(); // the question may have been rated elsewhere, and the time of a verdict counts from this request
});
poll();
