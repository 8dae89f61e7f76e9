/* What pages do beyond being read: search, the comparison of any two versions, copying.
   Text of others only ever becomes text: nothing here makes markup of it. */
"use strict";
(() => {
  const root = document.body.dataset.root;
  const url = (path) => new URL(root + path, location.href).href;

  const make = (name, attributes = {}, ...children) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };
  const link = (path, text) => make("a", { href: root + path }, text);

  const loaded = new Map();
  const load = (path) => {
    if (!loaded.has(path)) {
      loaded.set(path, fetch(url(path)).then((answer) => {
        if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
        return answer.json();
      }));
      loaded.get(path).catch(() => loaded.delete(path));
    }
    return loaded.get(path);
  };
  const day = (seconds) => {
    const date = new Date(seconds * 1000);
    return Number.isNaN(date.getTime()) ? `@${seconds}` : date.toISOString().slice(0, 10);
  };
  const trouble = (place, error) => {
    place.replaceChildren(make("p", { class: "note", role: "alert" },
      `It could not be loaded (${error.message}). Try again later.`));
  };
  const say = (text) => { document.getElementById("said").textContent = text; };

  /* Moments that have passed */
  for (const time of document.querySelectorAll("time[data-until]")) {
    if (new Date(time.dateTime) < new Date()) {
      time.after(make("span", { class: "expired" }, " (expired)"));
    }
  }

  /* Setting up a client: where this page is from, and a button that copies */
  const block = document.getElementById("setup-block");
  if (block) {
    for (const part of block.querySelectorAll("[data-fill]")) {
      part.textContent = url("../" + part.dataset.url).replaceAll("'", "%27");
    }
    const button = make("button", { type: "button" }, "Copy");
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(block.textContent.trim() + "\n");
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(block);
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
    block.after(button);
  }

  /* Comparing any two versions */
  const held = (data, number) => {
    const found = new Set();
    for (const version of data.versions.slice(0, number + 1)) {
      for (const one of version["-"]) found.delete(one);
      for (const one of version["+"]) found.add(one);
    }
    return found;
  };
  const difference = (data, from, to) => {
    const [NAME, ARCH, , RANK] = [0, 1, 2, 3];
    const text = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
    const order = (a, b) => {
      const [one, other] = [data.packages[a], data.packages[b]];
      return text(one[NAME], other[NAME]) || text(one[ARCH], other[ARCH]) ||
        one[RANK] - other[RANK] || a - b;
    };
    const [old, now] = [held(data, from), held(data, to)];
    const gone = new Set([...old].filter((one) => !now.has(one)));
    const come = new Set([...now].filter((one) => !old.has(one)));
    const pairs = [];
    for (const key of [(p) => `${p[NAME]} ${p[ARCH]}`, (p) => p[NAME]]) {
      const left = new Map();
      for (const one of [...come].sort(order)) {
        const name = key(data.packages[one]);
        left.set(name, [...(left.get(name) || []), one]);
      }
      for (const one of [...gone].sort(order).reverse()) {
        const partner = (left.get(key(data.packages[one])) || []).pop();
        if (partner !== undefined) {
          pairs.push([one, partner]);
          gone.delete(one);
          come.delete(partner);
        }
      }
    }
    const found = { upgraded: [], downgraded: [] };
    for (const [before, after] of pairs) {
      const step = data.packages[after][RANK] - data.packages[before][RANK];
      if (step === 0) {
        gone.add(before);
        come.add(after);
      } else {
        found[step > 0 ? "upgraded" : "downgraded"].push([before, after]);
      }
    }
    for (const rows of Object.values(found)) rows.sort((a, b) => order(a[1], b[1]));
    found.added = [...come].sort(order);
    found.removed = [...gone].sort(order);
    const fixes = (one) => come.has(one) || found.upgraded.some(([before, after]) => {
      const [p, a, b] = [data.packages[one], data.packages[before], data.packages[after]];
      return p[NAME] === b[NAME] && p[ARCH] === b[ARCH] && a[RANK] < p[RANK] && p[RANK] <= b[RANK];
    });
    found.advisories = data.advisories.filter((one) => one[3].some(fixes));
    return found;
  };

  const changelog = async (place, slug, before, after) => {
    try {
      const data = await load(`package/${slug}.json`);
      const [old, now] = [data.builds[before] || [], data.builds[after] || []];
      const newest = data.entries[old[0]];
      const rows = [];
      for (const number of old.length ? now : []) {
        const entry = data.entries[number];
        if (number === old[0] || entry[0] < newest[0]) break;
        rows.push(make("div", { class: "entry" },
          make("p", {}, `${day(entry[0])} `, make("bdi", {}, entry[1])),
          make("pre", {}, entry[2])));
      }
      place.replaceChildren(...(rows.length ? rows : [make("p", { class: "note" },
        old.length ? "Nothing new is in it." : "The metadata here has none of both builds.")]));
    } catch (error) {
      trouble(place, error);
    }
  };

  const shown = (data, title, rows) => {
    if (!rows.length) return [];
    const list = make("ul", { class: "changes" });
    for (const row of rows) {
      const [before, after] = Array.isArray(row) ? row : [null, row];
      const [name, arch, evr] = data.packages[after];
      const slug = data.slugs[name] || name;
      const version = make("span", { class: "evr" });
      if (before !== null) version.append(make("del", {}, data.packages[before][2]), " → ");
      version.append(evr);
      const item = make("li", {}, link(`package/${slug}.html`, name),
        make("span", { class: "arch" }, `.${arch}`), " ", version);
      if (title === "Upgraded") {
        const place = make("div");
        const details = make("details", {}, make("summary", {}, "Changelog"), place);
        details.addEventListener("toggle", () => {
          if (details.open && !place.hasChildNodes()) {
            const [, oldArch, oldEvr] = data.packages[before];
            changelog(place, slug, `${oldEvr}.${oldArch}`, `${evr}.${arch}`);
          }
        });
        item.append(details);
      }
      list.append(item);
    }
    return [make("h3", {}, `${title} `, make("span", { class: "count" }, String(rows.length))), list];
  };

  const compare = document.getElementById("compare");
  if (compare) {
    const place = document.getElementById("difference");
    const path = compare.dataset.history.slice(root.length);
    const show = async () => {
      try {
        const data = await load(path);
        const number = (name) => data.versions.findIndex((one) => one.u === compare.elements[name].value);
        const [from, to] = [number("from"), number("to")];
        if (from < 0 || to < 0) throw new Error("there is no such version any more");
        const found = difference(data, from, to);
        const parts = ["Upgraded", "Downgraded", "Added", "Removed"]
          .flatMap((title) => shown(data, title, found[title.toLowerCase()]));
        const advisories = make("ul", { class: "advisories" });
        for (const [ident, kind, severity, packages] of found.advisories) {
          const state = severity === "none" ? kind : `${kind}, ${severity}`;
          const names = packages.slice(0, 20).map((one) => data.packages[one].slice(0, 3))
            .map(([name, arch, evr]) => `${name}-${evr}.${arch}`).join(", ");
          advisories.append(make("li", {}, make("strong", {}, ident), " ",
            make("span", { class: `state ${kind === "security" ? "bad" : "none"}` }, state), " ",
            make("span", { class: "by" }, names)));
        }
        const count = ["upgraded", "downgraded", "added", "removed"]
          .reduce((sum, kind) => sum + found[kind].length, 0);
        say(count === 1 ? "1 package differs." : `${count || "No"} packages differ.`);
        place.replaceChildren(
          make("h2", {}, `From ${data.versions[from].v} to ${data.versions[to].v}`),
          ...(found.advisories.length ? [make("h3", {}, "Advisories"), advisories] : []),
          ...parts);
      } catch (error) {
        trouble(place, error);
      }
    };
    const given = new URLSearchParams(location.search);
    for (const name of ["from", "to"]) {
      const value = given.get(name);
      if ([...compare.elements[name].options].some((one) => one.value === value)) {
        compare.elements[name].value = value;
      }
    }
    const chosen = () => {
      const query = new URLSearchParams(new FormData(compare));
      history.replaceState(null, "", `?${query}`);
      show();
    };
    compare.addEventListener("submit", (event) => {
      event.preventDefault();
      chosen();
    });
    compare.addEventListener("change", chosen);
    show();
  }

  /* Search */
  const search = document.getElementById("search");
  if (search) {
    const place = document.getElementById("results");
    const MOST = 200;
    const MOST_PARTS = 12;
    const packages = async (slug, words) => {
      const rows = await load(`search/${slug}/packages.json`);
      const scored = [];
      for (const row of rows) {
        const name = row[0].toLowerCase();
        const score = name === words ? 0 : name.startsWith(words) ? 1 : name.includes(words) ? 2 :
          row[4].toLowerCase().includes(words) ? 3 : 4;
        if (score < 4) scored.push([score, row]);
      }
      scored.sort((a, b) => a[0] - b[0]);
      return scored.map((one) => one[1]);
    };
    const files = async (slug, words) => {
      const slash = words.lastIndexOf("/");
      const [directory, name] = [words.slice(0, Math.max(slash, 0)), words.slice(slash + 1)];
      const parts = await load(`search/${slug}/files.json`);
      const found = [];
      let left = MOST_PARTS;
      let more = false;
      for (const [number, first] of parts.entries()) {
        if (parts[number + 1] < name) continue;
        if (first > name && !first.startsWith(name)) break;
        if (left-- === 0 || found.length > MOST) {
          more = true;
          break;
        }
        const part = await load(`search/${slug}/files-${number}.json`);
        for (const [file, where, owner] of part.files) {
          if (!file.toLowerCase().startsWith(name)) continue;
          if (slash >= 0 && part.directories[where].toLowerCase() !== directory) continue;
          found.push([`${part.directories[where]}/${file}`, owner < 0 ? null : part.packages[owner]]);
        }
      }
      return [found, more];
    };
    let turn = 0;
    const look = async () => {
      const own = ++turn;
      const words = search.elements.q.value.trim().toLowerCase();
      const slug = search.elements.ref.value;
      if (words.length < 2) {
        place.replaceChildren();
        say("Type two characters or more.");
        return;
      }
      try {
        const [named, [paths, more]] = await Promise.all([
          words.includes("/") ? [] : packages(slug, words), files(slug, words)]);
        if (own !== turn) return;
        const list = make("ul", { class: "changes" });
        for (const [name, evr, arch, page, summary] of named.slice(0, MOST)) {
          list.append(make("li", {}, link(`package/${page}.html`, name),
            make("span", { class: "arch" }, `.${arch}`), " ", make("span", { class: "evr" }, evr),
            make("div", { class: "by" }, make("bdi", {}, summary))));
        }
        const places = make("ul", { class: "changes" });
        for (const [path, owner] of paths.slice(0, MOST)) {
          places.append(make("li", {}, make("code", {}, make("bdi", {}, path)), " ",
            owner ? link(`package/${owner[1]}.html`, owner[0]) : make("span", { class: "by" }, "in no package")));
        }
        const many = (count, open, name) =>
          `${count}${open ? " or more" : ""} ${name}${count === 1 && !open ? "" : "s"}`;
        const said = `${many(named.length, false, "package")}, ${many(paths.length, more, "file")}`;
        const head = (text, count) => [make("h2", {}, `${text} `, make("span", { class: "count" }, count))];
        say(paths.length > MOST || more ? `${said}; the first are shown.` : `${said}.`);
        place.replaceChildren(
          ...(named.length ? [...head("Packages", String(named.length)), list] : []),
          ...(paths.length ? [...head("Files", String(paths.length) + (more ? "+" : "")), places] : []));
      } catch (error) {
        if (own === turn) trouble(place, error);
      }
    };
    const given = new URLSearchParams(location.search);
    search.elements.q.value = given.get("q") || "";
    if (given.get("ref") && search.elements.ref.options) search.elements.ref.value = given.get("ref");
    let waiting = 0;
    const soon = () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => {
        history.replaceState(null, "", `?${new URLSearchParams(new FormData(search))}`);
        look();
      }, 150);
    };
    search.addEventListener("submit", (event) => {
      event.preventDefault();
      soon();
    });
    search.addEventListener("input", soon);
    if (search.elements.q.value) look();
    search.elements.q.focus();
  }
})();
