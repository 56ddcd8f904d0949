// What the pages do beyond HTML: local times, live updates, and selecting all. Nothing else needs it.
"use strict";

function showLocalTimes(root) {
  const day = new Date().toDateString();
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    const clock = at.toLocaleTimeString([], { hour12: false });
    time.title = at.toISOString();
    const date = [at.getFullYear(), at.getMonth() + 1, at.getDate()]
      .map((part) => String(part).padStart(2, "0")).join("-");
    time.textContent = at.toDateString() === day ? clock : `${date} ${clock}`;
  }
}

// Replaces what has changed, and leaves alone what somebody is in the middle of using.
function replaceParts(html) {
  const found = new DOMParser().parseFromString(html, "text/html");
  for (const fresh of found.querySelectorAll("[id='nav'], [id='part']")) {
    const old = document.getElementById(fresh.id);
    if (!old || !document.contains(old)) continue;
    showLocalTimes(fresh);
    if (old.innerHTML === fresh.innerHTML) continue;
    const active = old.contains(document.activeElement) ? document.activeElement : null;
    const address = active && active.getAttribute("href");
    old.replaceChildren(...document.importNode(fresh, true).childNodes);
    if (address) {
      const same = [...old.querySelectorAll("a")].find((a) => a.getAttribute("href") === address);
      if (same) same.focus();
    }
  }
}

function follow(address) {
  const box = document.getElementById("live");
  const button = box.querySelector("button");
  const status = box.querySelector("[role=status]");
  let source = null;

  function start() {
    source = new EventSource(address);
    source.onopen = () => { status.textContent = ""; };
    source.onerror = () => { status.textContent = "connection lost, trying again"; };
    source.addEventListener("outage", () => { status.textContent = "Redis does not answer"; });
    source.addEventListener("part", (event) => {
      status.textContent = "";
      if (document.getSelection().isCollapsed) replaceParts(event.data);
    });
  }

  function stop() {
    if (source) source.close();
    source = null;
  }

  function show() {
    const paused = button.getAttribute("aria-pressed") === "true";
    button.textContent = paused ? "Paused: go on" : "Live: pause";
  }

  box.hidden = false;
  button.addEventListener("click", () => {
    const paused = button.getAttribute("aria-pressed") === "true";
    button.setAttribute("aria-pressed", String(!paused));
    if (paused) start(); else stop();
    show();
  });
  // A page that nobody looks at costs nothing.
  document.addEventListener("visibilitychange", () => {
    if (button.getAttribute("aria-pressed") === "true") return;
    stop();
    if (!document.hidden) start();
  });
  window.addEventListener("pagehide", stop);
  show();
  start();
}

// A change in the background: asks for its page until it has ended.
async function poll(address) {
  const answer = await fetch(address);
  if (!answer.ok) return;
  replaceParts(await answer.text());
  if (document.querySelector("#part progress")) setTimeout(poll, 1000, address);
}

document.addEventListener("DOMContentLoaded", () => {
  showLocalTimes(document);
  const live = document.body.dataset.live;
  if (live && document.querySelector("#part progress")) setTimeout(poll, 500, `${live}?part=1`);
  else if (live) follow(live);
  document.addEventListener("change", (event) => {
    const box = event.target;
    const form = box.closest && box.closest("form");
    if (!form || box.type !== "checkbox") return;
    if (box.hasAttribute("data-all")) {
      for (const one of form.querySelectorAll("input[name=id]")) one.checked = box.checked;
    }
    const some = form.querySelector("input[name=id]:checked");
    const choice = form.querySelector(`input[name=only][value=${some ? "selected" : "all"}]`);
    if (choice) choice.checked = true;
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "k" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      document.querySelector(".search input").focus();
    }
  });
});
