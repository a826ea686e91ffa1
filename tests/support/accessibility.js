() => {
  const found = [];
  const tell = (rule, node, more = "") => {
    const text = (node.textContent || "").trim().slice(0, 40);
    found.push(`${rule}: <${node.tagName.toLowerCase()} id="${node.id}" class="${node.className.baseVal ?? node.className}"> ${text} ${more}`);
  };
  const hidden = (node) => node.closest("[aria-hidden=true], [hidden]") || !node.checkVisibility({ visibilityProperty: true });
  const shown = (selector) => [...document.querySelectorAll(selector)].filter((node) => !hidden(node));
  const named = (node) => {
    const by = (node.getAttribute("aria-labelledby") || "").split(/\s+/).filter(Boolean);
    if (by.length) return by.map((id) => document.getElementById(id)?.textContent.trim() ?? "").join(" ").trim();
    return (node.getAttribute("aria-label") || [...(node.labels || [])].map((label) => label.textContent).join(" ") ||
      (node.matches("button, a, summary") ? node.textContent : "") || node.getAttribute("title") || "").trim();
  };

  if (!document.documentElement.lang) tell("no language", document.documentElement);
  if (!document.title.trim()) tell("no title", document.documentElement);
  if (shown("main").length !== 1) tell("not one main landmark", document.body);
  if (shown("h1").length !== 1) tell("not one h1", document.body);
  let level = 0;
  for (const heading of shown("h1, h2, h3, h4")) {
    const next = Number(heading.tagName[1]);
    if (next > level + 1) tell("a heading level is left out", heading);
    level = next;
  }
  const ids = [...document.querySelectorAll("[id]")].map((node) => node.id);
  for (const id of new Set(ids.filter((id, place) => ids.indexOf(id) !== place))) found.push(`id twice: ${id}`);
  for (const node of document.querySelectorAll("[aria-labelledby], [aria-describedby]"))
    for (const attribute of ["aria-labelledby", "aria-describedby"])
      for (const id of (node.getAttribute(attribute) || "").split(/\s+/).filter(Boolean))
        if (!document.getElementById(id)) tell(`${attribute} names nothing`, node, id);

  for (const node of shown("button, a[href], input, select, textarea, [role=button]"))
    if (!named(node)) tell("a control without a name", node);
  for (const node of shown("img, svg"))
    if (!node.getAttribute("alt") && !named(node) && node.getAttribute("role") !== "presentation") tell("an image without a name", node);
  for (const node of shown("section, nav, [role=region], dialog, [role=log]"))
    if (!named(node)) tell("a landmark without a name", node);
  for (const node of document.querySelectorAll("[tabindex]"))
    if (Number(node.getAttribute("tabindex")) > 0) tell("an order of its own", node);
  for (const table of shown("table")) {
    if (!named(table) && !table.caption) tell("a table without a name", table);
    for (const head of table.querySelectorAll("th")) if (!head.scope) tell("a header without a scope", head);
    const columns = table.tHead.rows[0].cells.length;
    for (const row of table.tBodies[0].rows) {
      if (row.cells.length !== columns) tell("a row of another length", row);
      if (!row.querySelector("th[scope=row]")) tell("a row without a header", row);
    }
    // Laid out otherwise than as a table, it is one to a screen reader by its roles alone.
    if (getComputedStyle(table).display !== "table")
      for (const part of [table, ...table.querySelectorAll("thead, tbody, tr, td, th")])
        if (!part.getAttribute("role")) tell("no role in a table that is laid out as none", part);
  }
  for (const node of shown("button, select, input:not([type=range])")) {
    const { width, height } = node.getBoundingClientRect();
    if (width < 24 || height < 23.5) tell("a small target", node, `${width}x${height}`);
  }

  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const paint = (colors) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const color of colors) { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((part) => part / 255).map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (one, other) => {
    const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const grounds = (node) => {
    const colors = [];
    for (let at = node; at; at = at.parentElement) colors.unshift(getComputedStyle(at).backgroundColor);
    return ["Canvas", ...colors];
  };
  let texts = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || hidden(node) || node.closest("script, style, noscript, option")) continue;
    const box = node.getBoundingClientRect();
    if (box.width <= 1 || box.height <= 1) continue; // for screen readers alone
    if (node.closest(":disabled")) continue; // 1.4.3 exempts it
    texts += 1;
    const style = getComputedStyle(node);
    const ground = grounds(node);
    const ratio = contrast(paint([...ground, style.color]), paint(ground));
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5)) tell("too little contrast", node, ratio.toFixed(2));
  }
  if (texts < 5) found.push(`only ${texts} texts were seen`);
  return [...new Set(found)];
}
