"use strict";
// Cards are in the page already; this only hides, shows and orders them.
(() => {
  const list = document.getElementById("cards");
  const cards = [...list.children].map((card) => ({
    card,
    number: Number(card.dataset.number),
    status: card.dataset.status,
    scores: JSON.parse(card.dataset.scores),
    text: card.querySelector("h2").textContent.toLowerCase(),
  }));
  const field = (name) => document.getElementById(name);

  function filter() {
    const words = field("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const status = field("status").value;
    let shown = 0;
    for (const one of cards) {
      one.card.hidden = !(words.every((word) => one.text.includes(word)) && (!status || one.status === status));
      shown += one.card.hidden ? 0 : 1;
    }
    field("none").hidden = shown > 0;
  }

  // Assets without the score come last, whichever end is first.
  function byScore(name, sign) {
    return (a, b) => {
      const [left, right] = [a.scores[name], b.scores[name]];
      if (left === undefined || right === undefined) return (left === undefined) - (right === undefined) || a.number - b.number;
      return sign * (left - right) || a.number - b.number;
    };
  }

  function sort() {
    const chosen = field("sort").value;
    let order = (a, b) => a.number - b.number;
    if (chosen === "prompt") order = (a, b) => a.text.localeCompare(b.text) || a.number - b.number;
    else if (chosen) order = byScore(...JSON.parse(chosen));
    list.append(...[...cards].sort(order).map((one) => one.card));
  }

  field("filter").addEventListener("input", filter);
  field("status").addEventListener("change", filter);
  field("sort").addEventListener("change", sort);
  // A browser that goes back to this page may keep what was chosen.
  filter();
  sort();
})();
