// Adapters as changes to the tensors of their base.
#pragma once

#include <map>
#include <memory>

#include "models/adapter.h"

namespace attune::models {

// One adapter directory: W + weight·scale·B·A for what it adapts (DoRA: with rows of its own lengths, and a weight of 1), and other values for what it
// saves as a whole.
class AdapterDelta {
 public:
  explicit AdapterDelta(const fs::path& directory, double weight = 1);

  const formats::LoraConfig& config() const { return config_; }
  // Names of the base's tensors that change.
  std::vector<std::string> names() const;
  std::vector<std::string> replaced() const;  // those of them that it saves as a whole
  bool replaces(const std::string& name) const { return whole_.count(name) > 0; }  // whatever the base has
  bool changes(const std::string& name) const { return low_rank_.count(name) > 0 || whole_.count(name) > 0; }
  // Turns rows [first, first + rows) of tensor `name` with `cols` columns (a vector is one row) into those of the merged
  // model, in fp32. Refuses a tensor of another shape.
  void apply(const std::string& name, const std::vector<int64_t>& shape, int64_t first, int64_t rows, float* values) const;

 private:
  struct LowRank {
    std::vector<float> a, b;  // [r, in], [out, r]
    std::vector<float> magnitude;  // [out], or empty
    int64_t rank = 0, in = 0, out = 0;
    float scale = 1;
  };
  void read_low_rank(const std::string& module);
  void read_table(const std::string& module);  // of an embedding

  fs::path directory_;
  double weight_;
  formats::LoraConfig config_;
  std::unique_ptr<formats::TensorFile> file_;
  std::map<std::string, LowRank> low_rank_;
  std::map<std::string, const formats::TensorInfo*> whole_;
};

// The architecture of a base with what these adapters ask for: a larger vocabulary, a head of its own beside a tied embedding, a
// head that scores sequences.
DecoderConfig adapted_config(const formats::ModelDirectory& base, const std::vector<std::string>& adapters);

// Makes adapters part of the weights in memory, one after the other: in fp32 from the base's files, rounded once.
void merge_into(Decoder& model, formats::ModelDirectory& base, const std::vector<std::string>& adapters);

// A base with adapters to run: the last one beside the weights, those before it merged into them. First the model, then,
// with storage, what it holds.
std::unique_ptr<Decoder> declare_adapted(const formats::ModelDirectory& base, const std::vector<std::string>& adapters);
void load_adapted(Decoder& model, formats::ModelDirectory& base, const std::vector<std::string>& adapters);

}  // namespace attune::models
