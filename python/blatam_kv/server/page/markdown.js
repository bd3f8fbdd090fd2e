// Markdown as elements of the page. Every text goes in as text: nothing a model writes becomes markup.
const INLINE = /(\*\*|__)(.+?)\1|\*(?=\S)(.+?)\*|(?<!\w)_(?=\S)(.+?)_(?!\w)|`([^`]+)`/;

function inline(parent, text) {
  for (let found; (found = INLINE.exec(text)); text = text.slice(found.index + found[0].length)) {
    parent.append(text.slice(0, found.index));
    const element = document.createElement(found[1] ? "strong" : found[5] ? "code" : "em");
    if (found[5]) element.textContent = found[5];
    else inline(element, found[2] ?? found[3] ?? found[4]);
    parent.append(element);
  }
  parent.append(text);
}

function add(parent, name, text) {
  const element = document.createElement(name);
  if (text !== undefined) inline(element, text);
  parent.append(element);
  return element;
}

const cells = (line) => line.replace(/^\s*\||\|\s*$/g, "").split("|").map((cell) => cell.trim());

export function show(article, markdown) {
  const page = document.createDocumentFragment();
  const lines = markdown.split("\n");
  for (let at = 0; at < lines.length; at += 1) {
    const line = lines[at];
    const heading = /^(#{1,6})\s+(.*)$/.exec(line);
    const item = /^\s*([-*+]|\d+[.)])\s+(.*)$/.exec(line);
    if (heading) add(page, heading[1].length < 2 ? "h4" : "h5", heading[2]);
    else if (item) {
      const list = document.createElement(/\d/.test(item[1]) ? "ol" : "ul");
      if (list.tagName === "OL") list.start = parseInt(item[1], 10);
      for (let next; (next = /^\s*([-*+]|\d+[.)])\s+(.*)$/.exec(lines[at] ?? "")); at += 1) add(list, "li", next[2]);
      at -= 1;
      page.append(list);
    } else if (line.includes("|") && /^[\s|:-]+$/.test(lines[at + 1] ?? "") && lines[at + 1].includes("-")) {
      const table = document.createElement("table");
      const head = add(add(table, "thead"), "tr");
      for (const cell of cells(line)) add(head, "th", cell);
      const body = add(table, "tbody");
      for (at += 2; (lines[at] ?? "").includes("|"); at += 1) {
        const row = add(body, "tr");
        for (const cell of cells(lines[at])) add(row, "td", cell);
      }
      at -= 1;
      page.append(table);
    } else if (/^\s*(---+|\*\*\*+)\s*$/.test(line)) add(page, "hr");
    else if (line.trim()) {
      const text = [line.replace(/^>\s?/, "")];
      while (lines[at + 1]?.trim() && !/^(#{1,6}\s|\s*([-*+]|\d+[.)])\s)/.test(lines[at + 1]) && !lines[at + 1].includes("|")) text.push(lines[(at += 1)].replace(/^>\s?/, ""));
      add(line.startsWith(">") ? add(page, "blockquote") : page, "p", text.join(" "));
    }
  }
  article.replaceChildren(page);
}
