// Reads the pickle of a torch checkpoint, and can do nothing else: it knows a handful of names, builds plain values for
// them, and refuses every other GLOBAL by name. Nothing is imported, called or executed.
//
// Protocols 2 to 4, as far as torch.save writes them. The input is untrusted: it is read with bounds, values live in one
// flat pool (no recursion, whatever the nesting), and their number is limited.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace attune::formats {

struct PickledTensor {
  std::string name;
  std::string dtype;        // as safetensors names it
  std::string storage;      // key of the archive's data/<key>
  int64_t storage_elements = 0;
  int64_t offset = 0;  // in elements
  std::vector<int64_t> shape, strides;
};

// The tensors of a state dict (a dict or OrderedDict from names to tensors or parameters), in its order. `source` names
// the file in messages.
std::vector<PickledTensor> read_state_dict(std::string_view pickle, const std::string& source);

}  // namespace attune::formats
