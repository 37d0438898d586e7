// Small helpers to make SVG, MathML and HTML elements. Text only ever goes in as text.

const [SVG, MATH] = ["svg", "math"].map((name) => document.querySelector(name).namespaceURI);

/** An SVG element with attributes and children; a string among the children is text. */
export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

/** A MathML element, likewise. */
export function math(name, attributes = {}, ...children) {
  return fill(document.createElementNS(MATH, name), attributes, children);
}

/** An HTML element, likewise. */
export function html(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** A line of text at a place. */
export function label(x, y, text, classes = "", anchor = "middle") {
  return svg("text", { x, y, class: classes, "text-anchor": anchor }, text);
}
