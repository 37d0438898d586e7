// Registering a model from the page: PUT /models/{name} with its files and a config.
import { Problem, upload } from "./api.js";
import { sentence } from "./form.js";

/** Wires the fields. `done(metadata)` is told what was registered; `key()` gives the API key. */
export function createUpload({ name, files, config, send, told }, { key, done }) {
  files.addEventListener("change", () => {
    if (!name.value && files.files.length) name.value = nameOf(files.files[0].name);
  });
  send.addEventListener("click", async () => {
    send.disabled = true;
    say("Registering …");
    try {
      check();
      const made = await upload(name.value.trim(), files.files, config.value, key());
      say(`Registered: ${made.name}, version ${made.version}.`);
      done(made);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      say(sentence(error.message), true);
    } finally {
      send.disabled = false;
    }
  });

  function check() {
    if (!name.value.trim()) throw new Problem("Give the model a name.");
    if (!files.files.length) throw new Problem("Choose the file that has the weights.");
  }

  function say(text, wrong = false) {
    told.textContent = text;
    told.classList.toggle("fault", wrong);
  }
}

/** A model's name from its file's. */
function nameOf(file) {
  return file
    .replace(/(\.weights)?\.[^.]+$/, "")
    .replace(/^[^A-Za-z0-9]+|[^A-Za-z0-9._-]+/g, "-")
    .replace(/^-+/, "")
    .slice(0, 128);
}
