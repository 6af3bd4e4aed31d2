// A base whose layers are held in 4 or 8 bits (QLoRA, Dettmers et al. 2023). Nothing learns in it.
#pragma once

#include <functional>

#include "models/decoder.h"

namespace attune::models {

// Holds the weights of the layers' linear modules as `how`; embedding, head, norms and biases stay dense. What an adapter saves
// as a whole stays dense, with the modules that read the same input. Behind attach_adapter, before storage is allocated.
void quantize_layers(Decoder& model, const Quantization& how);

// Fills a quantised weight: read(first, n, out) gives rows [first, first + n) in fp32, from the first to the last and a few MB
// at a time. Fails where a number is not finite.
using ReadRows = std::function<void(int64_t first, int64_t n, float* out)>;
void quantize(nn::Parameter& weight, const ReadRows& read);
// The same into memory of the host.
void quantize(const QuantizedMatrix& into, const std::string& name, const ReadRows& read);

// Bytes of all weights before there is storage; a floating-point number, which sizes out of an absurd config.json fit into.
double weight_bytes(const Decoder& model, DType dtype);

}  // namespace attune::models
