
// A page that is served while the run goes on asks for a newer one, and keeps what the reader has chosen.

const WAIT = 2000;
let tag = "";

async function refresh() {
  try {
    const reply = await fetch("page", { headers: tag ? { "If-None-Match": tag } : {}, cache: "no-store" });
    document.body.classList.remove("gone");
    if (reply.status === 200) {
      const text = await reply.text();
      if (tag) replace(new DOMParser().parseFromString(text, "text/html"));
      tag = reply.headers.get("ETag");
    }
  } catch {
    document.body.classList.add("gone"); // the server has ended
  }
  setTimeout(refresh, WAIT);
}

function replace(page) {
  const open = [...document.querySelectorAll("details")].map((x) => x.open);
  const axis = document.querySelector(".switch input:checked")?.id;
  const [words, kind] = [search()?.value ?? "", choice()?.value ?? ""];
  const focused = document.activeElement?.id;
  const added = page.querySelectorAll("details").length === open.length;
  for (const name of ["header", "nav", "main"]) {
    document.querySelector(`body > ${name}`).replaceWith(page.querySelector(`body > ${name}`));
  }
  if (added) document.querySelectorAll("details").forEach((x, i) => (x.open = open[i]));
  if (axis && document.getElementById(axis)) document.getElementById(axis).checked = true;
  if (search()) {
    search().value = words;
    choice().value = kind;
    if (choice().selectedIndex < 0) choice().value = "";
    filterOutputs();
  }
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  document.title = page.title;
}

refresh();
