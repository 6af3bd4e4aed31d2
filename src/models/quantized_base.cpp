#include "models/quantized_base.h"

#include <algorithm>

#include "ops/quantize.h"
#include "util/error.h"

namespace attune::models {

void quantize_layers(Decoder& model, const Quantization& how) {
  for (int64_t i = 0; i < model.config().num_hidden_layers; ++i)
    for (const char* name : {"qkv", "o", "gate_up", "down"}) {
      const auto& weights = model.layer_linear(i, name).weights;
      if (std::any_of(weights.begin(), weights.end(), [](const nn::Parameter* p) { return !p->adapter_name.empty(); })) continue;
      for (nn::Parameter* p : weights) p->quantized.how = how;
    }
}

void quantize(const QuantizedMatrix& into, const std::string& name, const ReadRows& read) {
  constexpr int64_t kElements = 2 << 20, kRows = ops::Quantizer::kRows;
  const int64_t step = std::min(into.rows, std::max<int64_t>(1, kElements / into.cols / kRows) * kRows);
  std::vector<float> values(static_cast<size_t>(step * into.cols));
  ops::Quantizer quantizer(into);
  for (int64_t first = 0; first < into.rows; first += step) {
    const int64_t n = std::min(step, into.rows - first);
    read(first, n, values.data());
    if (!quantizer.add(values.data(), n)) fail("tensor \"{}\" holds a number that is not finite and cannot be quantised; the base model is damaged", name);
  }
  quantizer.finish();
}

void quantize(nn::Parameter& weight, const ReadRows& read) {
  const QuantizedMatrix& q = weight.quantized;
  if (weight.device->is_host()) return quantize(q, weight.name, read);
  std::vector<char> copy(q.bytes());
  quantize(QuantizedMatrix::over(copy.data(), q.how, q.rows, q.cols), weight.name, read);
  weight.device->upload(q.codes, copy.data(), copy.size());
}

double weight_bytes(const Decoder& model, DType dtype) {
  double bytes = 0;
  for (const auto& p : model.parameters().all()) {
    double n = p->is_quantized() ? p->quantized.how.bits() / 8 : static_cast<double>(size_of(dtype));
    for (int64_t size : p->shape) n *= static_cast<double>(size);
    bytes += n;
  }
  return bytes;
}

}  // namespace attune::models
