// What a model offers of what the page can show, why it does not where it does not, and which other model here does.

/** Why a model does not give an output; "" where it does. */
export function withoutOutput(card, name) {
  if (card.outputs.some((output) => output.name === name)) return "";
  return card.not_offered?.[name] || `model ${card.name} does not give ${name}`;
}

/** Why a model's edits may not have a verb; "" where they may. */
export function withoutEdit(card, verb) {
  if (card.edits?.includes(verb)) return "";
  return card.not_offered?.[`edits.${verb}`] || `model ${card.name} does not take ${verb} among edits`;
}

/**
 * Say in `place` why something is not offered, with a button for each model that offers it: `without(card)` is the
 * reason, "" where there is none. Takes the words away where the model itself offers it.
 */
export function explain(place, card, cards, without) {
  const reason = without(card);
  place.hidden = !reason;
  if (!reason) return;
  const others = cards.filter((other) => !without(other)).map(({ name }) => {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.model = name;
    button.textContent = `See it in ${name}`;
    return button;
  });
  place.replaceChildren(`Not offered here: ${reason}. `, ...others);
}
