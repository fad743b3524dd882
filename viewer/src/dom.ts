/** Elements. Text is always text: whatever a store holds, none of it becomes markup. */

type Child = Node | string | number | false | null | undefined;
type Properties = Readonly<Record<string, string | number | boolean | ((event: never) => void) | undefined>>;

/** An element with attributes (`onclick` and the like are listeners) and children. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  properties: Properties = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value as EventListener);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== undefined) element.setAttribute(name, String(value));
  }
  add(element, ...children);
  return element;
}

export function add(element: Element, ...children: Child[]): void {
  for (const child of children)
    if (child !== false && child !== null && child !== undefined)
      element.append(child instanceof Node ? child : String(child));
}

/** Replace the children of an element. */
export function show(element: Element, ...children: Child[]): void {
  element.replaceChildren();
  add(element, ...children);
}

/** Set a text only where it changes, so that screen readers are not told twice. */
export function say(element: Element, words: string): void {
  if (element.textContent !== words) element.textContent = words;
}

/** A function that runs once before the next picture, however often it is called. */
export function once(run: () => void): () => void {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      run();
    });
  };
}
