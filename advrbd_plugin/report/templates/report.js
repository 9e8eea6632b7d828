"use strict";
// The table of all verdicts: search, filter, sort, one screenful of rows at a time. Texts are set as texts, never as HTML.
(function () {
  const PAGE = 50;
  const data = JSON.parse(document.getElementById("rows").textContent);
  const total = data.paths.length;
  const find = (id) => document.getElementById(id);
  const lower = data.paths.map((path, row) => (path + "\n" + data.names[data.labels[row]]).toLowerCase());
  const code = (row) => data.codes.charCodeAt(row) - 48;
  const suggestion = (row) => (row in data.suggested ? data.names[data.suggested[row]] : "");
  const byName = data.names.map((_, label) => label).sort((a, b) => (data.names[a] < data.names[b] ? -1 : 1));
  const rank = [];
  byName.forEach((label, place) => (rank[label] = place));
  const keys = {
    path: (row) => row, // rows come in the order of their paths
    label: (row) => rank[data.labels[row]],
    verdict: code,
    probability: (row) => data.probabilities[row],
    suggested: (row) => (row in data.suggested ? rank[data.suggested[row]] : -1),
  };
  const state = { key: "probability", down: true, start: 0, rows: [] };

  function percentage(steps) {
    if (steps > 0 && steps < 50) return "<0.1%";
    if (steps >= 99950 && steps < 100000) return ">99.9%";
    return (steps / 1000).toFixed(1) + "%";
  }

  function link(row) {
    if (data.base === null) return "";
    if (row in data.links) return data.links[row];
    return data.base + data.paths[row].split("/").map(encodeURIComponent).join("/");
  }

  function sort() {
    const key = keys[state.key];
    const sign = state.down ? -1 : 1;
    state.rows.sort((a, b) => sign * (key(a) - key(b)) || a - b);
  }

  function select() {
    const words = find("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = find("class").value;
    const wanted = data.verdicts.map((name) => find("show-" + name).checked);
    state.rows = [];
    for (let row = 0; row < total; row++) {
      if (!wanted[code(row)] || (chosen !== "" && data.labels[row] !== Number(chosen))) continue;
      if (words.every((word) => lower[row].includes(word))) state.rows.push(row);
    }
    sort();
    state.start = 0;
    show();
  }

  function cell(line, name, content, kind) {
    const made = document.createElement(kind || "td");
    made.className = name;
    made.setAttribute("role", kind === "th" ? "rowheader" : "cell");
    if (kind === "th") made.scope = "row";
    made.append(content);
    line.append(made);
    return made;
  }

  // A long path may go on in the next line after a slash.
  function breakable(text) {
    const made = document.createDocumentFragment();
    text.split(/(?<=[/_])/).forEach((part, place) => {
      if (place) made.append(document.createElement("wbr"));
      made.append(part);
    });
    return made;
  }

  function show() {
    const body = find("verdicts-body");
    const lines = document.createDocumentFragment();
    const end = Math.min(state.start + PAGE, state.rows.length);
    for (const row of state.rows.slice(state.start, end)) {
      const line = document.createElement("tr");
      line.setAttribute("role", "row");
      const name = data.verdicts[code(row)];
      const path = breakable(data.paths[row]);
      if (link(row)) {
        const anchor = document.createElement("a");
        anchor.href = link(row);
        anchor.append(path);
        cell(line, "path", anchor, "th");
      } else {
        cell(line, "path", path, "th");
      }
      cell(line, "label", data.names[data.labels[row]]);
      cell(line, "verdict " + name, name);
      cell(line, "probability number", percentage(data.probabilities[row]));
      cell(line, "suggested", suggestion(row));
      lines.append(line);
    }
    body.replaceChildren(lines);
    const count = (number) => number.toLocaleString("en-US");
    find("shown").textContent = state.rows.length
      ? `${count(state.start + 1)} to ${count(end)} of ${count(state.rows.length)} pictures`
      : "No picture matches.";
    find("first").disabled = find("previous").disabled = state.start === 0;
    find("next").disabled = find("last").disabled = end >= state.rows.length;
    for (const button of document.querySelectorAll("#verdicts-head button")) {
      const own = button.dataset.key === state.key;
      button.closest("th").setAttribute("aria-sort", own ? (state.down ? "descending" : "ascending") : "none");
    }
    find("sort").value = state.key + (state.down ? "-down" : "-up");
  }

  function go(start) {
    state.start = Math.max(0, Math.min(start, PAGE * Math.floor((state.rows.length - 1) / PAGE)));
    show();
  }

  function orderBy(key, down) {
    state.key = key;
    state.down = down;
    sort();
    state.start = 0;
    show();
  }

  const choices = find("class");
  data.names.forEach((name, label) => choices.append(new Option(name, label)));
  let waiting = 0;
  find("search").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(select, 120);
  });
  choices.addEventListener("change", select);
  for (const name of data.verdicts) find("show-" + name).addEventListener("change", select);
  for (const button of document.querySelectorAll("#verdicts-head button")) {
    const key = button.dataset.key;
    button.addEventListener("click", () => orderBy(key, state.key === key ? !state.down : key === "probability"));
  }
  find("sort").addEventListener("change", () => {
    const [key, way] = find("sort").value.split("-");
    orderBy(key, way === "down");
  });
  find("first").addEventListener("click", () => go(0));
  find("previous").addEventListener("click", () => go(state.start - PAGE));
  find("next").addEventListener("click", () => go(state.start + PAGE));
  find("last").addEventListener("click", () => go(state.rows.length));
  find("table-part").hidden = false;
  select();
})();
