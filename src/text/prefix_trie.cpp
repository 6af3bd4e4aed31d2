#include "text/prefix_trie.h"

#include <algorithm>

namespace attune::text {

void PrefixTrie::build(std::vector<std::pair<std::string_view, int32_t>> entries) {
  std::sort(entries.begin(), entries.end());
  struct Work {
    uint32_t node;
    size_t begin, end, depth;  // entries [begin, end) share their first `depth` bytes
  };
  nodes_.assign(1, Node{});
  std::vector<Work> queue{{0, 0, entries.size(), 0}};
  for (size_t at = 0; at < queue.size(); ++at) {
    Work work = queue[at];
    if (work.begin < work.end && entries[work.begin].first.size() == work.depth)
      nodes_[work.node].value = entries[work.begin++].second;
    nodes_[work.node].first_child = static_cast<uint32_t>(nodes_.size());
    while (work.begin < work.end) {
      const char label = entries[work.begin].first[work.depth];
      size_t end = work.begin;
      while (end < work.end && entries[end].first[work.depth] == label) ++end;
      queue.push_back({static_cast<uint32_t>(nodes_.size()), work.begin, end, work.depth + 1});
      nodes_.push_back({0, -1, 0, static_cast<uint8_t>(label)});
      ++nodes_[work.node].children;
      work.begin = end;
    }
  }
}

uint32_t PrefixTrie::child(uint32_t node, uint8_t label) const {
  const Node* first = nodes_.data() + nodes_[node].first_child;
  const Node* last = first + nodes_[node].children;
  const Node* found =
      std::lower_bound(first, last, label, [](const Node& a, uint8_t wanted) { return a.label < wanted; });
  return found != last && found->label == label ? static_cast<uint32_t>(found - nodes_.data()) : 0;
}

}  // namespace attune::text
