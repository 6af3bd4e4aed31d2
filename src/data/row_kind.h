// What a row must be for the stage that reads it.
#pragma once

namespace attune::data {

enum class RowKind {
  text,          // pt: plain text
  conversation,  // sft: questions with answers
  pair,          // rm, dpo: a prompt with a chosen and a rejected answer
  judged,        // kto: a prompt with one answer that is good or bad
};

// "preference pairs (…)": what a row of this kind is, and the stages that learn from it, for messages.
const char* description_of(RowKind kind);
const char* stages_of(RowKind kind);
// Samples of a token set that come of one row and stay together.
constexpr int group_size_of(RowKind kind) { return kind == RowKind::pair || kind == RowKind::judged ? 2 : 1; }

}  // namespace attune::data
