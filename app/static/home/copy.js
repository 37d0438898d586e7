// Buttons that copy a text.

/** Copies the text of the element that each button names, and tells so in `told` and on the button. */
export function createCopies(root, told) {
  root.addEventListener("click", async ({ target }) => {
    const name = target.dataset?.copies;
    if (!name) return;
    const source = root.querySelector(`#${name}`);
    try {
      await navigator.clipboard.writeText(source.textContent);
      told.textContent = "Copied.";
    } catch {
      // no clipboard without https, but a selection always
      window.getSelection().selectAllChildren(source);
      told.textContent = "Selected: copy it with your keyboard.";
    }
  });
}
