// What a model offers of what the page can show, and why it does not where it does not.

/** Why a model does not give an output; "" where it does. */
export function withoutOutput(card, name) {
  if (card.outputs.some((output) => output.name === name)) return "";
  return card.not_offered?.[name] || `model ${card.name} does not give ${name}`;
}

/** Why a model's edits may not have a verb; "" where they may. */
export function withoutEdit(card, verb) {
  if (card.edits?.includes(verb)) return "";
  return card.not_offered?.[`edits.${verb}`] || `model ${card.name} takes no edits of this kind`;
}
