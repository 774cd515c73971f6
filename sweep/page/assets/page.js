// @ts-check
// The page's program. It reads the JSON of the page, and writes text by textContent alone: no name becomes markup.
"use strict";
(() => {
  /** @typedef {{name: string, title: string, kind: string, digits?: number, hidden?: number, values?: any[], words?: any[], at?: number[]}} Column */
  /** @typedef {{name: string, caption: string, count: number, columns: Column[]}} Table */
  const holder = document.getElementById("data");
  const page = JSON.parse(holder ? holder.textContent || "{}" : "{}");
  const PAGE_ROWS = 100;
  const LEVELS = 9;
  const STATES = ["done", "running", "queued", "ready", "waiting", "interrupted", "failed", "blocked", "cancelled", "unknown", "left"];

  /** An element with attributes and children; strings become text.
   * @param {string} tag @param {Record<string, any>} [attributes] @param {...(Node | string)} children @returns {any} */
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value === true) element.setAttribute(name, "");
      else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
    }
    element.append(...children);
    return element;
  }
  /** The same of SVG. @param {string} tag @param {Record<string, any>} attributes @param {...(Node | string)} children @returns {SVGElement} */
  function draw(tag, attributes, ...children) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
    element.append(...children);
    return element;
  }

  // Values as sweep/page/tables.py writes them.

  /** @param {Column} column @param {number} row @returns {any} */
  function valueOf(column, row) {
    return column.at ? /** @type {any[]} */ (column.words)[column.at[row]] : /** @type {any[]} */ (column.values)[row];
  }
  /** @param {number} value @param {number} digits */
  function formatNumber(value, digits) {
    const [whole, part] = Math.abs(value).toFixed(digits).split(".");
    const sign = value < 0 ? "−" : "";
    return sign + whole.replace(/\B(?=(\d{3})+$)/g, ",") + (part ? "." + part : "");
  }
  /** @param {number} value */
  function formatHours(value) {
    if (value === 0) return "-";
    if (value < 0.001) return "<0.001";
    return value < 0.1 ? value.toFixed(3) : value >= 100 ? formatNumber(value, 0) : value.toFixed(value >= 10 ? 1 : 2);
  }
  /** @param {number} seconds */
  function formatTime(seconds) {
    const moment = new Date(1000 * seconds);
    return Number.isNaN(moment.getTime()) ? String(seconds) : moment.toISOString().slice(0, 16).replace("T", " ");
  }
  /** @param {number | null} seconds */
  function formatDuration(seconds) {
    if (seconds === null) return "so far";
    return seconds < 120 ? `${seconds} s` : seconds < 7200 ? `${Math.round(seconds / 60)} min` : seconds < 172800 ? `${(seconds / 3600).toFixed(1)} h` : `${(seconds / 86400).toFixed(1)} days`;
  }
  /** @param {Column} column @param {any} value @returns {string} */
  function formatValue(column, value) {
    if (value === null || value === undefined) return "";
    if (typeof value !== "number" || column.kind === "text" || column.kind === "cell") return String(value);
    if (column.kind === "time") return formatTime(value);
    if (column.kind === "p") return value < 0.001 ? "<0.001" : value.toFixed(3);
    return column.kind === "hours" ? formatHours(value) : formatNumber(value, column.digits || 0);
  }

  /** @type {Map<string, Table>} */
  const tables = new Map(page.tables.map((/** @type {Table} */ table) => [table.name, table]));
  /** @type {Map<string, number>} */
  const cells = new Map(page.cells.names.map((/** @type {string} */ name, /** @type {number} */ place) => [name, place]));
  /** @param {Table} table @param {string} name @returns {Column} */
  const columnOf = (table, name) => /** @type {Column} */ (table.columns.find((each) => each.name === name));

  /** A text that takes several lines. @param {string | Node} text */
  const markLong = (text) => (typeof text === "string" && text.length > 40 ? " long" : "");

  /** One place of a table. @param {Column} column @param {any} value */
  function makePlace(column, value) {
    const text = formatValue(column, value);
    const state = column.name === "state" && STATES.includes(text) ? ` state s-${text}` : "";
    const place = make("td", { class: `k-${column.kind}${column.kind === "text" ? markLong(text) : ""}${state}` });
    if (column.kind === "cell" && cells.has(text)) place.append(make("a", { href: "#cell-" + encodeURIComponent(text) }, text));
    else place.textContent = text;
    return place;
  }

  // CSV: as RFC 4180 has it. A text that a spreadsheet would take for a formula begins with an apostrophe.

  /** @param {any} value */
  function quoteCsv(value) {
    if (value === null || value === undefined) return "";
    if (typeof value === "number") return String(value);
    const text = /^[=+\-@\t\r\n]/.test(value) ? "'" + value : String(value);
    return /[",\r\n]/.test(text) ? '"' + text.replace(/"/g, '""') + '"' : text;
  }
  /** @param {Table} table @param {number[]} rows */
  function buildCsv(table, rows) {
    const lines = [table.columns.map((each) => quoteCsv(each.name)).join(",")];
    for (const row of rows) {
      lines.push(table.columns.map((each) => {
        const value = valueOf(each, row);
        return each.kind === "time" && value !== null ? new Date(1000 * value).toISOString() : quoteCsv(value);
      }).join(","));
    }
    return lines.join("\r\n") + "\r\n";
  }
  /** @param {string} name @param {string} text */
  function saveFile(name, text) {
    const address = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
    const link = make("a", { href: address, download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
  }

  // Tables: sorted, filtered, a hundred rows at a time.

  /** @param {HTMLTableElement} element */
  function attachTable(element) {
    const table = tables.get(element.dataset.table || "");
    const tools = document.querySelector(`[data-tools="${element.dataset.table}"]`);
    if (!table || !tools || !table.count) return;
    const shown = table.columns.filter((each) => !each.hidden);
    let order = Array.from({ length: table.count }, (_, row) => row);
    let first = 0, sorted = "", descending = false;
    /** @type {string[]} */
    let texts = [];
    const body = element.tBodies[0];
    const heads = Array.from(element.tHead ? element.tHead.rows[0].cells : []);
    const count = make("span", { role: "status" });
    const filter = make("input", { type: "search", placeholder: "filter", "aria-label": `filter ${table.name}`, oninput: apply });
    const back = make("button", { type: "button", onclick: () => move(-PAGE_ROWS) }, "previous");
    const on = make("button", { type: "button", onclick: () => move(PAGE_ROWS) }, "next");
    const csv = make("button", { type: "button", onclick: () => saveFile(`${page.sweep}-${table.name}.csv`, buildCsv(table, order)) }, "CSV");
    tools.append(filter, count, back, on, csv);
    heads.forEach((head, place) => {
      const title = head.textContent || "";
      head.replaceChildren(make("button", { type: "button", onclick: () => sortBy(shown[place]) }, title));
    });
    const section = element.closest("section");
    if (section) section.querySelectorAll("[data-static]").forEach((each) => each.remove());

    function rowText(/** @type {number} */ row) {
      if (!texts.length) texts = new Array(table?.count || 0);
      if (texts[row] === undefined) texts[row] = shown.map((each) => formatValue(each, valueOf(each, row))).join(" ").toLowerCase();
      return texts[row];
    }
    function apply() {
      const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      order = Array.from({ length: table?.count || 0 }, (_, row) => row);
      if (words.length) order = order.filter((row) => words.every((/** @type {string} */ word) => rowText(row).includes(word)));
      const column = shown.find((each) => each.name === sorted);
      if (column) {
        const sign = descending ? -1 : 1;
        order.sort((left, right) => compare(valueOf(column, left), valueOf(column, right), sign) || left - right);
      }
      first = 0;
      show();
    }
    /** @param {Column} column */
    function sortBy(column) {
      descending = sorted === column.name ? !descending : column.kind === "number" || column.kind === "hours";
      sorted = column.name;
      heads.forEach((head, place) => {
        if (shown[place].name === sorted) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
        else head.removeAttribute("aria-sort");
      });
      apply();
    }
    /** @param {number} by */
    function move(by) {
      first = Math.max(0, Math.min(first + by, order.length - 1));
      show();
    }
    function show() {
      const rows = order.slice(first, first + PAGE_ROWS);
      body.replaceChildren(...rows.map((row) => make("tr", {}, ...shown.map((each) => makePlace(each, valueOf(each, row))))));
      const end = first + rows.length;
      count.textContent = order.length ? `${formatNumber(first + 1, 0)} to ${formatNumber(end, 0)} of ${formatNumber(order.length, 0)}` : "no row";
      back.disabled = first === 0;
      on.disabled = end >= order.length;
    }
    show();
  }
  /** Numbers by size, words by letters, unknown values last. @param {any} left @param {any} right @param {number} sign */
  function compare(left, right, sign) {
    const empty = [left, right].map((each) => each === null || each === undefined || each === "");
    if (empty[0] || empty[1]) return Number(empty[0]) - Number(empty[1]);
    if (typeof left === "number" && typeof right === "number") return sign * (left - right);
    return sign * String(left).localeCompare(String(right), "en", { numeric: true });
  }

  // The grid: by which score it is coloured; arrow keys.

  /** @returns {Map<HTMLElement, number>} */
  function findGridPlaces() {
    const places = new Map();
    document.querySelectorAll(".heat a").forEach((link) => {
      const place = cells.get(decodeName(link.getAttribute("href") || ""));
      if (place !== undefined) places.set(/** @type {HTMLElement} */ (link), place);
    });
    return places;
  }
  /** @param {string} address */
  function decodeName(address) {
    try {
      return decodeURIComponent(address.replace(/^#cell-/, ""));
    } catch {
      return "";
    }
  }
  function attachGrid() {
    const places = findGridPlaces();
    const measures = page.measures.filter((/** @type {any} */ each) => page.cells.scores[each.name]);
    const table = /** @type {Table} */ (tables.get("cells"));
    const tools = document.getElementById("heat-tools");
    if (tools && measures.length) {
      const select = make("select", { id: "heat-by", onchange: () => colour(select.value) });
      for (const each of measures) select.append(make("option", { value: each.name }, each.title.toLowerCase()));
      select.append(make("option", { value: "" }, "state"));
      tools.append(make("label", { for: "heat-by" }, "colour by"), select);
    }
    /** @param {string} name */
    function colour(name) {
      const measure = measures.find((/** @type {any} */ each) => each.name === name);
      const scores = name ? page.cells.scores[name] : [];
      const known = scores.filter((/** @type {any} */ each) => typeof each === "number");
      const low = Math.min(...known), high = Math.max(...known);
      setText("heat-measure", measure ? measure.title.toLowerCase() : "state");
      setText("heat-low", measure ? low.toFixed(3) : "-");
      setText("heat-high", measure ? high.toFixed(3) : "-");
      for (const [link, place] of places) {
        const score = scores[place];
        const level = typeof score === "number" ? Math.min(Math.floor(((score - low) / (high - low || 1)) * LEVELS), LEVELS - 1) : null;
        const cell = /** @type {HTMLElement} */ (link.parentElement);
        cell.className = cell.className.replace(/^(q\d|no)/, level === null ? "no" : `q${level}`);
        const done = valueOf(columnOf(table, "finished"), place), all = valueOf(columnOf(table, "models"), place);
        link.textContent = level !== null ? score.toFixed(2).replace("-", "−") : name && done ? `${done}/${all}` : valueOf(columnOf(table, "state"), place);
      }
    }
    document.querySelectorAll(".heat").forEach((grid) => {
      const links = Array.from(grid.querySelectorAll("a"));
      // one place of each table is in the order of tabs; arrows reach the others
      links.forEach((link, number) => (link.tabIndex = number ? -1 : 0));
      grid.addEventListener("keydown", (event) => {
        const key = /** @type {KeyboardEvent} */ (event).key;
        const steps = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
        const step = Object.hasOwn(steps, key) ? steps[/** @type {"ArrowUp"} */ (key)] : null;
        const from = /** @type {HTMLElement} */ (event.target).closest("td");
        if (!step || !from) return;
        event.preventDefault();
        const rows = Array.from(/** @type {HTMLTableElement} */ (grid).tBodies[0].rows);
        let across = from.cellIndex, down = rows.indexOf(/** @type {HTMLTableRowElement} */ (from.parentElement));
        do {
          across += step[0];
          down += step[1];
          const next = rows[down]?.cells[across]?.querySelector("a");
          if (next) {
            links.forEach((link) => (link.tabIndex = -1));
            next.tabIndex = 0;
            next.focus();
            return;
          }
        } while (rows[down] && across > 0 && across < rows[down].cells.length);
      });
    });
  }
  /** @param {string} id @param {string} text */
  function setText(id, text) {
    const element = document.getElementById(id);
    if (element) element.textContent = text;
  }

  // A cell: its axes, models, tasks, jobs, executions, losses.

  /** @param {string} caption @param {string[]} titles @param {(string | Node)[][]} rows @param {string[]} [kinds] */
  function makeTable(caption, titles, rows, kinds = []) {
    const body = rows.map((row) => make("tr", {}, ...row.map((value, place) => make("td", { class: `k-${kinds[place] || "text"}${markLong(value)}` }, value))));
    return make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
      make("table", {}, make("caption", {}, make("span", {}, caption)),
        make("thead", {}, make("tr", {}, ...titles.map((title, place) => make("th", { scope: "col", class: `k-${kinds[place] || "text"}` }, title)))),
        make("tbody", {}, ...body)));
  }
  /** @param {Table} table @param {number[]} rows @param {string} caption @param {string[]} without */
  function makePart(table, rows, caption, without) {
    const shown = table.columns.filter((each) => !without.includes(each.name) && rows.some((row) => { const value = valueOf(each, row); return value !== null && value !== ""; }));
    return makeTable(caption, shown.map((each) => each.title), rows.map((row) => shown.map((each) => formatValue(each, valueOf(each, row)))), shown.map((each) => each.kind));
  }
  /** @param {number} place */
  function listExecutions(place) {
    const jobs = new Set(page.cells.jobs[place]);
    return page.executions.rows.filter((/** @type {any[]} */ row) => jobs.has(row[0]));
  }
  /** @param {number} place */
  function makeTasks(place) {
    const models = page.cells.models[place], table = /** @type {Table} */ (tables.get("models"));
    // scores come in ten thousandths
    const show = (/** @type {any} */ value) => (typeof value === "number" ? (value / 10000).toFixed(3) : String(value));
    /** @type {Map<number, (string | Node)[]>} */
    const rows = new Map();
    models.forEach((/** @type {number} */ model, /** @type {number} */ column) => {
      const found = page.tasks.rows[model] || [];
      for (let at = 0; at < found.length; at += 4) {
        const [task, score, low, high] = found.slice(at, at + 4);
        const about = page.tasks.tasks[task];
        if (!rows.has(task)) rows.set(task, [about.name, about.kind, about.n === null ? "" : formatNumber(about.n, 0), about.chance === null ? "" : String(about.chance), ...models.map(() => "")]);
        const interval = low === null || high === null ? "" : ` [${show(low)}, ${show(high)}]`;
        /** @type {any} */ (rows.get(task))[4 + column] = show(score) + interval;
      }
    });
    if (!rows.size) return null;
    const epochs = models.map((/** @type {number} */ model) => {
      const number = valueOf(columnOf(table, "epochs"), model);
      return `${number} ${number === 1 ? "epoch" : "epochs"}`;
    });
    return makeTable("Tasks: score and 95 % interval, by epochs", ["task", "kind", "questions", "chance", ...epochs], [...rows.values()], ["text", "text", "number", "number", ...epochs.map(() => "number")]);
  }
  /** A chart of the losses of the cell's jobs. @param {number} place */
  function makeLosses(place) {
    const jobs = /** @type {Table} */ (tables.get("jobs"));
    const found = page.cells.jobs[place].filter((/** @type {number} */ job) => page.curves[job]);
    const charts = [];
    for (const phase of page.phases) {
      const curves = found.filter((/** @type {number} */ job) => valueOf(columnOf(jobs, "phase"), job) === phase).map((/** @type {number} */ job) => page.curves[job]);
      if (curves.length) charts.push(drawLosses(phase, curves));
    }
    return charts.length ? make("div", { class: "charts" }, ...charts) : null;
  }
  /** @param {string} phase @param {any[][]} curves */
  function drawLosses(phase, curves) {
    const lines = curves.map(([steps, values]) => values.map((/** @type {number} */ value, /** @type {number} */ at) => [Array.isArray(steps[0]) ? steps[0][at] : steps[0] + at * steps[1], value]));
    const xs = lines.flat().map((point) => point[0]), ys = lines.flat().map((point) => point[1]);
    const [left, right, top, bottom] = [46, 330, 26, 192];
    const [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    const across = (/** @type {number} */ x) => left + ((x - x0) / (x1 - x0 || 1)) * (right - left);
    const down = (/** @type {number} */ y) => bottom - ((y - y0) / (y1 - y0 || 1)) * (bottom - top);
    const parts = [draw("text", { class: "title", x: 2, y: 12 }, `${phase} loss (nats/token)`), draw("path", { class: "axis", d: `M${left},${top}V${bottom}H${right}` })];
    for (let tick = 0; tick < 5; tick += 1) {
      const y = y0 + (tick / 4) * (y1 - y0), x = x0 + (tick / 4) * (x1 - x0);
      parts.push(draw("text", { class: "tick", x: left - 5, y: down(y) + 3.5, "text-anchor": "end" }, y.toPrecision(3)));
      parts.push(draw("text", { class: "tick", x: across(x), y: bottom + 14, "text-anchor": tick === 4 ? "end" : "middle" }, formatNumber(Math.round(x), 0)));
    }
    lines.forEach((line, number) => {
      const path = "M" + line.map((/** @type {number[]} */ [x, y]) => `${across(x).toFixed(1)},${down(y).toFixed(1)}`).join("L");
      const [, , logged, at, peak] = curves[number];
      parts.push(draw("path", { class: `l s${number % 8} d${Math.floor(number / 8) % 4}`, d: path }, draw("title", {}, `${logged} losses logged; the highest ${peak} at step ${at}`)));
    });
    parts.push(draw("text", { class: "label", x: 188, y: 228, "text-anchor": "middle" }, "step"));
    return draw("svg", { class: "chart", viewBox: "0 0 340 232", role: "img", "aria-label": `Training loss of ${phase} against the step` }, ...parts);
  }
  /** Bars of the cell's executions. @param {any[][]} executions */
  function makeTimes(executions) {
    const jobs = /** @type {Table} */ (tables.get("jobs")), words = page.executions.words;
    const ends = executions.map((row) => row[1] + (row[2] ?? 0));
    const first = Math.min(...executions.map((row) => row[1])), last = Math.max(...ends, first + 1);
    const across = (/** @type {number} */ x) => 90 + ((x - first) / (last - first)) * 820;
    const names = [...new Set(executions.map((row) => row[0]))];
    const parts = names.map((job, number) => draw("text", { class: "tick", x: 2, y: 33 + 13 * number }, valueOf(columnOf(jobs, "phase"), job)));
    [first, last].forEach((moment, number) => parts.push(draw("text", { class: "tick", x: number ? 910 : 90, y: 12, "text-anchor": number ? "end" : "start" }, formatTime(moment + page.executions.first))));
    executions.forEach((row, number) => {
      const phase = page.phases.indexOf(valueOf(columnOf(jobs, "phase"), row[0])), ended = words[row[3]];
      const failed = ended === "done" || ended === "running" ? "" : " failed";
      const width = Math.max(across(ends[number]) - across(row[1]), 1);
      parts.push(draw("rect", { class: `p-${phase < 0 ? "x" : phase}${failed}`, x: across(row[1]).toFixed(1), y: 24 + 13 * names.indexOf(row[0]), width: width.toFixed(1), height: 10 }, draw("title", {}, `${ended}, ${formatDuration(row[2])}`)));
    });
    return make("div", { class: "charts wide", tabindex: 0, role: "region", "aria-label": "times" }, draw("svg", { class: "timeline", viewBox: `0 0 920 ${30 + 13 * names.length}`, role: "img", "aria-label": "Executions of the cell's jobs over time" }, ...parts));
  }
  /** @type {any} */
  const dialog = document.getElementById("cell");
  /** @param {string} name */
  function openCell(name) {
    const place = cells.get(name);
    if (place === undefined || !dialog) return;
    const table = /** @type {Table} */ (tables.get("cells")), jobs = /** @type {Table} */ (tables.get("jobs")), models = /** @type {Table} */ (tables.get("models"));
    const count = valueOf(columnOf(table, "models"), place);
    const executions = listExecutions(place), words = page.executions.words;
    const axes = Object.entries(page.cells.axes).map(([axis, values]) => [axis.replaceAll("_", " "), Array.isArray(values) ? values[place] : values]);
    const history = executions.map((/** @type {any[]} */ row) => [valueOf(columnOf(jobs, "phase"), row[0]), valueOf(columnOf(jobs, "key"), row[0]), formatTime(row[1] + page.executions.first), formatDuration(row[2]), words[row[3]], words[row[4]], words[row[5]], words[row[6]]]);
    const parts = [
      make("div", { class: "bar" }, make("h2", { id: "cell-title" }, name), make("button", { type: "button", autofocus: true, onclick: () => dialog.close() }, "Close")),
      make("p", { class: "facts" }, `${valueOf(columnOf(table, "state"), place)}, ${valueOf(columnOf(table, "finished"), place)} of ${count} ${count === 1 ? "model" : "models"} finished`),
      makeTable("Axes", axes.map(([axis]) => axis), [axes.map(([, value]) => value)]),
      makePart(models, page.cells.models[place], "Models", ["cell"]),
      makeTasks(place),
      makeLosses(place),
      makePart(jobs, page.cells.jobs[place], "Jobs, parents first", []),
      executions.length ? makeTimes(executions) : null,
      history.length ? makeTable("Executions", ["phase", "key", "started (UTC)", "for", "ended", "node", "message", "what was done"], history) : make("p", { class: "note" }, "Nothing of it has run yet."),
      make("p", { class: "note" }, "In a terminal: ", make("code", {}, `sweep explain ${page.sweep} ${name}`)),
    ];
    dialog.replaceChildren(...parts.filter(Boolean));
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
  }
  function followAddress() {
    if (location.hash.startsWith("#cell-")) openCell(decodeName(location.hash));
    else if (dialog && dialog.open) dialog.close();
  }
  if (dialog) {
    dialog.addEventListener("close", () => {
      // the address must change for the same cell to open again; the place on the page stays
      if (location.hash.startsWith("#cell-")) history.replaceState(null, "", location.pathname + location.search);
    });
    dialog.addEventListener("click", (/** @type {Event} */ event) => { if (event.target === dialog) dialog.close(); });
  }
  document.addEventListener("click", (event) => {
    const link = /** @type {HTMLElement} */ (event.target).closest?.('a[href^="#cell-"]');
    if (!link) return;
    event.preventDefault();
    const address = link.getAttribute("href") || "";
    history.replaceState(null, "", address);
    openCell(decodeName(address));
  });

  // Light, dark, or as the system has it.

  const theme = document.getElementById("theme");
  const THEMES = ["auto", "light", "dark"];
  /** @param {string} name */
  function setTheme(name) {
    if (name === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    if (theme) theme.textContent = `Theme: ${name}`;
    try {
      localStorage.setItem("sweep-report-theme", name);
    } catch { /* a file without storage forgets it */ }
  }
  if (theme) {
    let kept = "auto";
    try {
      kept = localStorage.getItem("sweep-report-theme") || "auto";
    } catch { /* as above */ }
    theme.hidden = false;
    setTheme(THEMES.includes(kept) ? kept : "auto");
    theme.addEventListener("click", () => setTheme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme || "auto") + 1) % 3]));
  }

  document.querySelectorAll("table[data-table]").forEach((element) => attachTable(/** @type {HTMLTableElement} */ (element)));
  attachGrid();
  window.addEventListener("hashchange", followAddress);
  followAddress();
})();
