// Stepping through time: how many calls of every layer are shown as made. Play makes one after the other.

const PACE = 800; // milliseconds a step

/** Wires the buttons. `turn(tick)` is told how many calls are to be shown as made; null is all of them. */
export function createClock({ start, back, play, forth, end, range, told }, { turn }) {
  let [tick, length, timer] = [null, 0, null];

  const moves = new Map([
    [start, () => 0],
    [back, () => Math.max(0, (tick ?? length) - 1)],
    [forth, () => Math.min(length, (tick ?? 0) + 1)],
    [end, () => null],
  ]);
  for (const [button, next] of moves) {
    button.addEventListener("click", () => {
      pause();
      turn(next());
    });
  }
  range.addEventListener("input", () => {
    pause();
    turn(Number(range.value));
  });
  play.addEventListener("click", () => {
    if (timer) {
      pause();
      return;
    }
    timer = setInterval(advance, PACE);
    shape();
    turn(tick === null || tick >= length ? 0 : tick + 1);
  });

  function advance() {
    if (tick === null || tick >= length) pause();
    else turn(tick + 1);
  }

  function pause() {
    clearInterval(timer);
    timer = null;
    shape();
  }

  function shape() {
    play.textContent = timer ? "Pause" : "Play";
    play.setAttribute("aria-pressed", String(timer !== null));
  }

  return {
    pause,
    /** Shows a tick of a sequence of so many steps. */
    render(now, steps) {
      [tick, length] = [now, steps];
      range.max = String(steps);
      range.value = String(now ?? steps);
      told.textContent = now === null ? `all of ${steps}` : `step ${now} of ${steps}`;
      back.disabled = start.disabled = now === 0 || steps === 0;
      forth.disabled = now === steps || steps === 0;
      end.disabled = now === null;
      play.disabled = range.disabled = steps === 0;
    },
  };
}
