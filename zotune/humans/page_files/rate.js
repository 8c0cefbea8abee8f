// The page shows what /next gives and posts what a person says. All text goes in by textContent: nothing that a model
// wrote is ever read as markup. Where a request fails, nothing is lost: the question stays and is asked for again.

const POLL = 1200; // ms between looks for a question while none is open
const SLOW = 5000; // the same when the tuner is done or the server is away
const SETTLE = 180; // ms for which keys are not taken after a question has appeared: the second half of a double press
const WORDS = { t: "tie", b: "bad", s: "skip" };

const at = (id) => document.getElementById(id);
let shown = null; // the question on the page
let since = 0; // when it appeared
let busy = false; // a request of the person's is on its way
let timer = 0;
let hush = 0;

async function call(name, body) {
  const options = { cache: "no-store", credentials: "omit" };
  if (body) {
    Object.assign(options, { method: "POST", headers: { "Content-Type": "application/json" } });
    options.body = JSON.stringify(body);
  }
  const reply = await fetch(name, options);
  if (!reply.ok) throw Object.assign(new Error((await reply.text()).trim()), { status: reply.status });
  return reply.json();
}

function later(wait) {
  clearTimeout(timer);
  timer = setTimeout(look, wait);
}

async function look() {
  clearTimeout(timer);
  if (busy) return;
  try {
    const found = await call("next");
    if (!busy) show(found);
  } catch (error) {
    away(error);
  }
}

async function send(name, body) {
  if (busy) return;
  busy = true;
  clearTimeout(timer);
  document.body.classList.add("busy");
  try {
    const found = await call(name, body);
    busy = false;
    if (found.taken === false) say("That one was answered already.");
    else if (found.undo === "used") say("The tuner has used that answer already: it stays.");
    else if (found.undo === "nothing") say("There is nothing to undo.");
    else if (found.undo === "undone") say("Taken back. Answer it again.");
    else say("");
    show(found);
  } catch (error) {
    busy = false;
    if (shown && error.status !== 404) {
      say(error.status ? `Not saved: ${error.message}` : "Not saved: nobody serves this page now. Start zotune again.");
    } else away(error);
  } finally {
    document.body.classList.remove("busy");
  }
}

function verdict(word) {
  if (shown) send("answer", { id: shown.id, verdict: word });
}

function show({ question, progress }) {
  const fresh = question && question.id !== shown?.id;
  facts(progress);
  at("dock").hidden = !progress || progress.done || (!question && !progress.answered);
  for (const id of ["tie", "bad", "skip"]) at(id).hidden = !question;
  at("question").hidden = !question;
  at("pause").hidden = Boolean(question);
  shown = question;
  if (fresh) draw(question);
  if (question) return;
  document.title = "Which answer is better?";
  rest(progress);
}

function draw(question) {
  const many = question.answers.length;
  const held = document.activeElement?.closest("#answers");
  fill(at("prompt"), question.prompt);
  at("bad-word").textContent = many > 2 ? "All bad" : "Both bad";
  at("ask").textContent = many > 2 ? "Which answer is the best?" : "Which answer is better?";
  at("answers").dataset.many = many;
  at("answers").replaceChildren(...question.answers.map(card));
  at("question").dataset.id = question.id;
  since = performance.now();
  window.scrollTo(0, 0);
  for (const part of [at("prompt"), at("answers")]) {
    part.classList.remove("new");
    void part.offsetWidth; // so that the animation starts again
    part.classList.add("new");
  }
  if (held) at("ask").focus({ preventScroll: true });
  at("spoken").textContent = `New question with ${many} answers`;
  if (document.hidden) document.title = "● A question is waiting";
}

function card(text, place) {
  const key = String(place + 1);
  const box = document.createElement("article");
  const body = document.createElement("div");
  const foot = document.createElement("div");
  const button = document.createElement("button");
  const badge = document.createElement("kbd");
  const words = document.createElement("span");
  box.setAttribute("aria-label", `Answer ${key}`);
  body.className = "text";
  body.dir = "auto";
  fill(body, text);
  foot.className = "foot";
  button.type = "button";
  button.className = "choose";
  button.setAttribute("aria-keyshortcuts", key);
  badge.textContent = key;
  words.textContent = "This one";
  words.setAttribute("aria-label", `Choose answer ${key}`);
  button.append(badge, words);
  button.addEventListener("click", () => verdict(key));
  foot.append(button);
  box.append(body, foot);
  return box;
}

function fill(box, text) {
  const empty = !text.trim();
  box.textContent = empty ? "(empty)" : text;
  box.classList.toggle("empty", empty);
}

function facts(progress) {
  const bar = at("bar");
  const parts = [];
  bar.hidden = !progress?.planned;
  if (progress) {
    if (progress.planned) {
      bar.max = progress.planned;
      bar.value = progress.answered;
      parts.push(`${progress.answered} of ${progress.planned}`);
    } else if (progress.answered) parts.push(`${progress.answered} answered`);
    if (progress.left !== null && progress.left > 0 && !progress.done) parts.push(`${span(progress.left)} left`);
    if (progress.repeated) {
      parts.push(`same answer on ${progress.agreed} of ${progress.repeated} repeats`);
    }
  }
  at("facts").replaceChildren(
    ...parts.map((text) => Object.assign(document.createElement("span"), { textContent: text })),
  );
  const tuner = at("tuner");
  const state = !progress ? "" : progress.done ? "done" : progress.running ? "running" : "stopped";
  tuner.dataset.state = state;
  tuner.textContent = { running: progress?.state || "tuner running", stopped: "tuner not running" }[state] ?? "";
}

function span(seconds) {
  const minutes = Math.round(seconds / 60);
  if (minutes < 1) return "under a minute";
  if (minutes < 60) return `about ${minutes} min`;
  return `about ${Math.floor(minutes / 60)} h ${minutes % 60 ? `${minutes % 60} min` : ""}`.trim();
}

function rest(progress) {
  const asked = progress && progress.answered > 0;
  if (progress?.done) {
    const same = progress.repeated
      ? ` Of ${progress.repeated} shown twice you answered ${progress.agreed} the same way.`
      : "";
    const count = progress.answered === 1 ? "1 question" : `${progress.answered} questions`;
    pause("done", "All done, thank you", `You answered ${count}.${same} This page can be closed.`);
    later(SLOW);
  } else if (progress?.running) {
    const doing = progress.state ? `The tuner is busy: ${progress.state}` : "The tuner is busy.";
    pause("wait", asked ? "Waiting for the next answers" : "Waiting for the first answers", doing);
    later(POLL);
  } else if (asked || progress?.planned || progress?.state) {
    pause("still", "The tuner is not running", "Your answers are kept. Start it again, and this page goes on by itself.");
    later(POLL);
  } else {
    pause("wait", "Waiting for the tuner", "The first question appears here as soon as it asks. Leave this page open.");
    later(POLL);
  }
}

function away(error) {
  if (!error.status && !at("pause").hidden && at("mark").dataset.kind === "done") {
    later(SLOW); // whoever served the page has ended with the last answer, and nothing is missing
  } else if (error.status === 404) {
    gone("This address is no longer valid", "zotune was started again: open the address that it prints now.");
  } else if (error.status) {
    gone("The answers cannot be read", error.message);
    later(SLOW);
  } else {
    gone("Nobody serves this page now", "Your answers are kept. Start zotune again and open the address that it prints.");
    later(SLOW);
  }
}

function gone(title, text) {
  shown = null;
  facts(null);
  at("dock").hidden = true;
  at("question").hidden = true;
  at("pause").hidden = false;
  pause("still", title, text);
}

function pause(kind, title, text) {
  at("mark").dataset.kind = kind;
  for (const [id, words] of [["pause-title", title], ["pause-text", text]]) {
    if (at(id).textContent !== words) at(id).textContent = words;
  }
  if (at("spoken").textContent !== title) at("spoken").textContent = title;
}

function say(text) {
  clearTimeout(hush);
  at("said").textContent = text;
  if (text) hush = setTimeout(() => say(""), 6000);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.isComposing) return;
  const key = event.key.toLowerCase();
  if (key === "u" && !at("dock").hidden) send("undo", {});
  else if (!shown || performance.now() - since < SETTLE) return;
  else if (key in WORDS) verdict(WORDS[key]);
  else if (/^[1-9]$/.test(key) && Number(key) <= shown.answers.length) verdict(key);
  else return;
  event.preventDefault();
});
for (const word of Object.values(WORDS)) at(word).addEventListener("click", () => verdict(word));
at("undo").addEventListener("click", () => send("undo", {}));
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  document.title = "Which answer is better?";
  look(); // what is on the page may have been answered elsewhere; and the time of an answer counts from here
});
look();
