// Sorting, filtering, copying. Every page reads without it: what needs it is hidden until it runs.
"use strict";

(() => {
  for (const each of document.querySelectorAll(".js[hidden]")) each.hidden = false;

  // A site may stand for months: whether its run is old is asked anew at each visit.
  const stale = document.querySelector(".stale");
  const days = (Date.now() - Date.parse(stale.dataset.finished)) / 86400000;
  if (days >= Number(stale.dataset.staleAfter)) stale.hidden = false;

  // On a phone the variants are one row to swipe through: show the one that was chosen.
  const tab = document.querySelector(".tabs [aria-current]");
  if (tab) tab.parentElement.scrollLeft = tab.offsetLeft - 8;

  // The address: what is chosen stands behind the #, so that a link shows the same.
  const chosen = () => new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");

  const remember = (key, value) => {
    const all = chosen();
    if (value) all.set(key, value);
    else all.delete(key);
    history.replaceState(null, "", `${location.pathname}${location.search}${all.size ? `#${all}` : ""}`);
    carry();
  };

  // Another variant shows the same choice; so does the way back from an architecture.
  const carry = () => {
    for (const link of document.querySelectorAll("a.keep")) link.hash = chosen().toString();
  };

  // Sorting

  const collator = new Intl.Collator("en", { numeric: true });
  const value = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent;

  const sort = (table, column, descending) => {
    const heads = [...table.tHead.rows[0].cells];
    const numeric = heads[column].dataset.sort === "number";
    const order = (a, b) =>
      numeric ? Number(value(a, column)) - Number(value(b, column)) : collator.compare(value(a, column), value(b, column));
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => (descending ? -1 : 1) * order(a, b) || collator.compare(value(a, 0), value(b, 0)));
    table.tBodies[0].append(...rows);
    heads.forEach((head, index) => {
      if (index === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
  };

  const name = (head) => head.textContent.trim().toLowerCase();

  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    table.originally = heads.findIndex((head) => head.hasAttribute("aria-sort"));
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const descending = head.getAttribute("aria-sort") === "ascending";
        sort(table, column, descending);
        remember("sort", `${descending ? "-" : ""}${name(head)}`);
      });
    });
  }

  const restoreOrder = () => {
    const wanted = chosen().get("sort") ?? "";
    for (const table of document.querySelectorAll("table.sortable")) {
      const heads = [...table.tHead.rows[0].cells];
      const descending = wanted.startsWith("-");
      const column = heads.findIndex((head) => name(head) === wanted.slice(descending ? 1 : 0));
      sort(table, column < 0 ? table.originally : column, column >= 0 && descending);
    }
  };

  // Filtering

  const form = document.querySelector("form.filters");

  const fits = (row) => {
    const { q, state, stage, cache, tier, since } = Object.fromEntries(new FormData(form));
    return (
      (!q || value(row, 0).toLowerCase().includes(q.trim().toLowerCase())) &&
      (!tier || row.dataset.tier === tier) &&
      (!cache || row.dataset.caches.split("\n").includes(cache)) &&
      (!since || Date.parse(row.dataset.since) > Date.parse(since)) &&
      (!state || (state === "unexpected" ? "unexpected" in row.dataset : row.dataset.state === state)) &&
      // A stage asks who has trouble there.
      (!stage || row.dataset.stages.split(" ").includes(stage))
    );
  };

  const filter = () => {
    const rows = [...document.querySelector("#grid").tBodies[0].rows];
    for (const row of rows) row.hidden = !fits(row);
    const left = rows.filter((row) => !row.hidden).length;
    form.querySelector(".shown").textContent = `${left} of ${rows.length}`;
    document.querySelector(".nothing").hidden = left > 0;
  };

  const restoreFilters = () => {
    for (const field of form.elements) {
      if (!field.name) continue;
      field.value = chosen().get(field.name) ?? "";
      if (field.selectedIndex === -1) field.value = "";
    }
    filter();
  };

  if (form) {
    // Where the screen is small, the grid matters more than the filters.
    const toggle = form.querySelector(".toggle");
    toggle.addEventListener("click", () => {
      const open = form.querySelector(".more").classList.toggle("open");
      toggle.setAttribute("aria-expanded", String(open));
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", (event) => {
      remember(event.target.name, event.target.value);
      filter();
    });
    form.addEventListener("reset", (event) => {
      event.preventDefault();
      history.replaceState(null, "", `${location.pathname}${location.search}`);
      restore();
      form.elements.q.focus();
    });
    document.addEventListener("keydown", (event) => {
      if (event.key !== "/" || event.ctrlKey || event.metaKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
      event.preventDefault();
      form.elements.q.focus();
    });
  }

  const restore = () => {
    restoreOrder();
    if (form) restoreFilters();
    carry();
  };

  // A hash without choices is a place on the page, such as the one that the skip link leads to.
  addEventListener("hashchange", () => {
    if (!location.hash || chosen().size) restore();
  });
  if (chosen().size) restore();

  // Copying

  for (const box of document.querySelectorAll("[data-badge]")) {
    if (!location.protocol.startsWith("http")) continue;
    const endpoint = new URL(box.dataset.badge, location.href).href;
    const code = box.querySelector("code");
    const text = code.textContent.replace(/url=[^)]*/, `url=${encodeURIComponent(endpoint)}`);
    code.textContent = text;
    box.querySelector("button").dataset.copy = text;
  }

  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.addEventListener("click", async () => {
      const before = [...button.childNodes];
      try {
        await navigator.clipboard.writeText(button.dataset.copy);
        button.textContent = "Copied";
      } catch {
        // No clipboard without a secure origin: leave the text selected, for the reader's own keys.
        getSelection().selectAllChildren(button.parentElement.querySelector("code"));
        button.textContent = "Selected";
      }
      setTimeout(() => button.replaceChildren(...before), 1500);
    });
  }
})();
