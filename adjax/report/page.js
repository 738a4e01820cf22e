"use strict";
// Each utterance has one player in use; switching hands its position over to the next.
const utterances = [...document.querySelectorAll(".utterance")].map(setUp);
let current = utterances[0];

function setUp(article) {
  const cards = [...article.querySelectorAll(".card")];
  const players = cards.map((card) => card.querySelector("audio"));
  const picks = [...article.querySelectorAll(".pick")];
  const play = article.querySelector(".play");
  let index = 0;

  function show() {
    const player = players[index];
    picks.forEach((pick, i) => pick.setAttribute("aria-pressed", String(i === index)));
    cards.forEach((card, i) => card.classList.toggle("on", i === index));
    play.textContent = player.paused ? "Play" : "Pause";
    article.style.setProperty("--at", player.duration ? player.currentTime / player.duration : 0);
  }
  function follow() {
    show();
    if (!players[index].paused) requestAnimationFrame(follow);
  }
  function start() {
    players[index].play().catch(show);
  }
  function select(next, at) {
    if (!(next in players)) return;
    const before = players[index];
    const playing = !before.paused;
    const time = at ?? before.currentTime;
    index = next;
    if (players[index] !== before) before.pause();
    players[index].currentTime = Math.min(time, players[index].duration || time);
    if (playing) start();
    show();
  }
  function toggle() {
    if (players[index].paused) start();
    else players[index].pause();
  }

  players.forEach((player, i) => {
    player.addEventListener("play", () => {
      // Also where the player's own button was pressed.
      if (i !== index) {
        const before = players[index];
        if (!before.paused) player.currentTime = before.currentTime;
        index = i;
      }
      for (const other of document.querySelectorAll("audio")) if (other !== player) other.pause();
      follow();
    });
    for (const event of ["pause", "ended", "seeked"]) player.addEventListener(event, show);
  });
  picks.forEach((pick, i) => pick.addEventListener("click", () => select(i)));
  play.addEventListener("click", toggle);
  article.querySelector(".loop").addEventListener("change", (event) => {
    for (const player of players) player.loop = event.target.checked;
  });
  article.querySelectorAll(".pictures").forEach((picture, i) =>
    picture.addEventListener("click", (event) => {
      const box = picture.getBoundingClientRect();
      select(i, ((event.clientX - box.left) / box.width) * (players[i].duration || 0));
      start();
    })
  );
  const used = { article, select, toggle, restart: () => select(index, 0) };
  for (const event of ["pointerdown", "focusin"]) article.addEventListener(event, () => (current = used));
  return used;
}

document.addEventListener("keydown", (event) => {
  const keys = document.getElementById("keys");
  if (!current || !keys.checked || event.ctrlKey || event.metaKey || event.altKey) return;
  if (/^[1-9]$/.test(event.key)) current.select(Number(event.key) - 1);
  else if (event.key === "p") current.toggle();
  else if (event.key === "b") current.restart();
  else return;
  event.preventDefault();
});
