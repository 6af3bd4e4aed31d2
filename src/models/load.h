// Model directories ↔ decoders.
#pragma once

#include <memory>

#include "formats/model_directory.h"
#include "models/decoder.h"

namespace attune::models {

// Declares the model of a directory; no weights yet.
std::unique_ptr<Decoder> declare(const formats::ModelDirectory& directory);

// Reads all weights, masters in full precision first where there are any; what is held quantised is quantised while it is read. Every tensor must be there with its shape and nothing may be left over
// (buffers that older files carry, and a tied head's second copy, are known and skipped).
void load_weights(Decoder& model, formats::ModelDirectory& directory);

// Fills weights as transformers initialises them: normal(0, initializer_range), norms 1, biases 0. A function of the
// seed and the tensor's name: sharding and order change nothing.
void initialise_weights(Decoder& model, uint64_t seed);

// The same tensors, made while they are written: no weight is in memory. `model` must outlive them.
std::vector<formats::TensorSource> initial_tensors(const Decoder& model, DType dtype, uint64_t seed);

// What to save, in declaration order: masters where there are any, as `save_dtype`. A parameter that is not trained and
// is held narrower than `save_dtype` comes out of `base`'s files (which must stay open), so that it keeps every bit.
std::vector<formats::TensorSource> tensor_sources(const Decoder& model, DType save_dtype, formats::ModelDirectory* base = nullptr);

}  // namespace attune::models
