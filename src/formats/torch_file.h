// A torch checkpoint of weights (pytorch_model.bin): a zip archive with a pickle that names tensors and one stored entry a
// storage. Nothing in it is executed (formats/pickle.h). Tensors are read where they lie, as with safetensors.
#pragma once

#include "formats/tensor_file.h"

namespace attune::formats {

class TorchFile : public TensorFile {
 public:
  // Refuses what torch.save wrote before PyTorch 1.6 (no zip archive), and tensors that are not contiguous.
  explicit TorchFile(const fs::path& file);
};

}  // namespace attune::formats
