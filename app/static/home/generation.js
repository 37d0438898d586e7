// One to many: a model of tokens writes on from a prompt, and what it writes is shown as it comes.
import { Problem, events } from "./api.js";
import { idsOf, nameOf, textOf } from "./batch/tokens.js";
import { html } from "./draw/elements.js";
import { sentence } from "./form.js";

/** Wires the section. `get()` gives {model, about, key}. */
export function createGeneration(page, { get }) {
  const { section, form, prompt, steps, temperature, seed, stop, write, halt, fault, written, told } = page;
  let [under, shown] = [null, null];
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    start();
  });
  halt.addEventListener("click", () => under?.abort());

  async function start() {
    const { model, about, key } = get();
    under?.abort();
    const asked = (under = new AbortController());
    busy(true);
    try {
      const request = requestOf(about);
      written.replaceChildren(...request.inputs[0].map((id) => wordOf(id, about.vocabulary, "given")));
      told.textContent = "";
      const path = `/models/${encodeURIComponent(model)}/generate`;
      for await (const [event, data] of events(path, request, key, asked.signal)) HEARD[event](data, about);
    } catch (error) {
      if (error.name === "AbortError") told.textContent = "Stopped.";
      else say(error);
    } finally {
      if (under === asked) busy(false);
    }
  }

  const HEARD = {
    step: ({ tokens }, about) => written.append(wordOf(tokens[0], about.vocabulary, "new")),
    done: ({ lengths, finish }) => {
      const why = finish[0] === "stop" ? "it said its end" : "that is as many as were asked for";
      told.textContent = `${lengths[0]} ${lengths[0] === 1 ? "token" : "tokens"}: ${why}.`;
    },
    error: (problem) => {
      throw new Problem(problem.detail, problem.errors);
    },
  };

  function requestOf({ vocabulary, embedding }) {
    const size = embedding.vocabulary_size;
    const inputs = [idsOf(prompt.value, vocabulary, size)];
    const stops = stop.value.trim() ? idsOf(stop.value, vocabulary, size) : [];
    return {
      inputs,
      max_steps: Number(steps.value),
      temperature: Number(temperature.value),
      seed: Number(seed.value),
      ...(stops.length ? { stop: stops } : {}),
    };
  }

  function busy(is) {
    halt.hidden = !is;
    write.disabled = is;
    if (is) fault.hidden = true;
  }

  function say(error) {
    if (!(error instanceof Problem)) throw error;
    fault.textContent = sentence(error.message);
    fault.hidden = false;
  }

  return {
    /** Shows the section for a model that can write. */
    render(about) {
      section.hidden = !writes(about);
      if (section.hidden || about.name === shown) return;
      shown = about.name;
      under?.abort();
      written.replaceChildren();
      told.textContent = "";
      const first = Math.min(4, about.embedding.vocabulary_size - 1);
      prompt.value = about.vocabulary ? textOf([first], about.vocabulary) : String(first);
    },
  };
}

/** Whether what comes out of a model is a distribution over the tokens that go in. */
function writes(about) {
  return Boolean(
    about?.embedding && about.readout?.at(-1).size === about.embedding.vocabulary_size && about.return_sequences,
  );
}

function wordOf(id, vocabulary, kind) {
  return html("span", { class: `written ${kind}`, title: `token ${id}` }, nameOf(id, vocabulary));
}
