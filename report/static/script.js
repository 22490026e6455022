// Theme, sorting, filtering, copying. Every page reads without it: what needs it is hidden until it runs.
"use strict";

(() => {
  // A page that was opened from disk, or in a private window, may have no storage.
  const stored = (storage, key) => {
    try {
      return window[storage].getItem(key);
    } catch {
      return null;
    }
  };
  const store = (storage, key, value) => {
    try {
      if (value) window[storage].setItem(key, value);
      else window[storage].removeItem(key);
    } catch {
      // What cannot be remembered holds for this page.
    }
  };

  // Theme: set before anything is painted.

  const THEMES = ["", "light", "dark"];
  let theme = stored("localStorage", "theme");
  const paint = () => {
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
  };
  paint();

  addEventListener("DOMContentLoaded", () => {
    for (const each of document.querySelectorAll(".js[hidden]")) each.hidden = false;

    const switcher = document.querySelector("[data-theme-choice]");
    const name = () => (switcher.textContent = `Theme: ${theme || "system"}`);
    name();
    switcher.addEventListener("click", () => {
      theme = THEMES[(THEMES.indexOf(theme || "") + 1) % THEMES.length];
      store("localStorage", "theme", theme);
      paint();
      name();
    });

    // A site may stand for months: whether its run is old is asked anew at each visit.
    const stale = document.querySelector(".stale");
    const days = (Date.now() - Date.parse(stale.dataset.finished)) / 86400000;
    if (days >= Number(stale.dataset.staleAfter)) stale.hidden = false;

    lists();
    wayBack();
    copying();
  });

  // Lists

  const lists = () => {
    // The address: what is chosen stands behind the #, so that a link shows the same.
    const chosen = () => new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");

    const remember = (key, value) => {
      const all = chosen();
      if (value) all.set(key, value);
      else all.delete(key);
      history.replaceState(null, "", `${location.pathname}${location.search}${all.size ? `#${all}` : ""}`);
      carry();
    };

    // Another variant shows the same choice.
    const carry = () => {
      for (const link of document.querySelectorAll("a.keep")) link.hash = chosen().toString();
    };

    // Sorting

    const collator = new Intl.Collator("en", { numeric: true });
    const value = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const heads = (table) => [...table.tHead.rows[0].cells];

    const sort = (table, column, descending) => {
      const numeric = heads(table)[column].dataset.sort === "number";
      const order = (a, b) =>
        numeric ? Number(value(a, column)) - Number(value(b, column)) : collator.compare(value(a, column), value(b, column));
      arrange(table, (a, b) => (descending ? -1 : 1) * order(a, b) || collator.compare(value(a, 0), value(b, 0)));
      heads(table).forEach((head, index) => {
        if (index === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
        else head.removeAttribute("aria-sort");
      });
    };

    const arrange = (table, order) => {
      const rows = [...table.tBodies[0].rows].sort(order);
      table.tBodies[0].append(...rows);
    };

    const tables = [...document.querySelectorAll("table.sortable")];
    for (const table of tables) {
      [...table.tBodies[0].rows].forEach((row, index) => (row.originally = index));
      table.originally = heads(table).findIndex((head) => head.hasAttribute("aria-sort"));
      heads(table).forEach((head, column) => {
        const label = head.querySelector("span");
        const button = document.createElement("button");
        button.type = "button";
        button.append(...label.childNodes);
        label.replaceWith(button);
        button.addEventListener("click", () => {
          const descending = head.getAttribute("aria-sort") === "ascending";
          sort(table, column, descending);
          remember("sort", `${descending ? "-" : ""}${head.dataset.key}`);
        });
      });
    }

    const restoreOrder = () => {
      const wanted = chosen().get("sort") ?? "";
      const descending = wanted.startsWith("-");
      for (const table of tables) {
        const column = heads(table).findIndex((head) => head.dataset.key === wanted.slice(descending ? 1 : 0));
        if (column >= 0) {
          sort(table, column, descending);
          continue;
        }
        arrange(table, (a, b) => a.originally - b.originally);
        heads(table).forEach((head, index) => {
          if (index === table.originally) head.setAttribute("aria-sort", "ascending");
          else head.removeAttribute("aria-sort");
        });
      }
    };

    // Filtering

    const form = document.querySelector("form.filters");
    const rows = () => [...document.querySelector("#grid").tBodies[0].rows];

    const hasState = (row, state, variant) =>
      [...row.querySelectorAll("[data-states]")].some((cell) => {
        const states = cell.dataset.states.split("\n");
        if (variant && cell.dataset.variant !== variant) return false;
        return state ? states.includes(state) : !states.includes("not in this run");
      });

    const fits = (row) => {
      const { q, state, variant, since, ...others } = Object.fromEntries(new FormData(form));
      const text = row.dataset.find ?? value(row, 0);
      return (
        (!q || text.toLowerCase().includes(q.trim().toLowerCase())) &&
        (!(state || variant) || hasState(row, state, variant)) &&
        (!since || Date.parse(row.dataset.since) > Date.parse(since)) &&
        // Of every other field, the row has the values that it fits.
        Object.entries(others).every(([field, wanted]) => !wanted || row.dataset[field].split("\n").includes(wanted))
      );
    };

    const filter = () => {
      for (const row of rows()) row.hidden = !fits(row);
      const left = rows().filter((row) => !row.hidden).length;
      form.querySelector(".shown").textContent = `${left} of ${rows().length}`;
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
      // Where the screen is small, the list matters more than the filters.
      const toggle = form.querySelector(".toggle");
      toggle.addEventListener("click", () => {
        const open = form.querySelector(".more").classList.toggle("open");
        toggle.setAttribute("aria-expanded", String(open));
      });
      form.addEventListener("submit", (event) => {
        event.preventDefault();
        rows().find((row) => !row.hidden)?.querySelector("th a")?.click();
      });
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
  };

  // The way back leads to where the reader came from, as it was filtered and sorted.

  const wayBack = () => {
    const here = location.pathname.slice(0, location.pathname.length - address().length);
    const back = document.querySelector("a.back");
    if (back) {
      const [page, text, hash] = JSON.parse(stored("sessionStorage", "list") ?? "[]");
      if (page?.startsWith(here) && page !== location.pathname) {
        back.href = page + hash;
        back.textContent = text;
      }
    }
    if (!document.querySelector("#grid, table.contract, table.compare, table.affected")) return;
    addEventListener("pagehide", () => {
      // A cause and a clause lead on to architectures, and back to their own list.
      const text = back ? document.querySelector("h1").textContent.trim().slice(0, 60) : document.title.split(" · ")[0];
      store("sessionStorage", "list", JSON.stringify([location.pathname, text, location.hash]));
    });
  };

  // The address of this page within the site.
  const address = () => {
    const depth = document.body.dataset.root.split("../").length;
    return location.pathname.split("/").slice(-depth).join("/");
  };

  // Copying

  const copying = () => {
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
  };
})();
