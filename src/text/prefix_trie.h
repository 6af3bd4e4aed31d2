// A set of byte strings, asked for those that a text begins with.
#pragma once

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace attune::text {

class PrefixTrie {
 public:
  // `entries`: non-empty strings (each once) with their values (≥ 0). They need not live on.
  void build(std::vector<std::pair<std::string_view, int32_t>> entries);

  // Calls visit(length, value) for every entry that `text` begins with, the shortest first.
  template <class Visit>
  void prefixes(std::string_view text, Visit visit) const {
    if (nodes_.empty()) return;
    uint32_t node = 0;
    for (size_t i = 0; i < text.size(); ++i) {
      node = child(node, static_cast<uint8_t>(text[i]));
      if (node == 0) return;
      if (nodes_[node].value >= 0) visit(i + 1, nodes_[node].value);
    }
  }

 private:
  // The children of a node lie side by side, sorted by label.
  struct Node {
    uint32_t first_child = 0;
    int32_t value = -1;
    uint16_t children = 0;
    uint8_t label = 0;
  };
  uint32_t child(uint32_t node, uint8_t label) const;

  std::vector<Node> nodes_;  // nodes_[0] is the root
};

}  // namespace attune::text
