#include "models/decoder.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "ops/rope.h"
#include "tensor/transfer.h"
#include "util/error.h"
#include "util/rng.h"

namespace attune::models {
namespace {

// Places of randomness outside of the blocks, which take 0, 1, 2 …
constexpr int64_t kTableRows = 1024;  // of rotary tables that are made at a time

constexpr uint64_t kEmbeddingSite = ~uint64_t{0}, kNoiseSite = ~uint64_t{1};

}  // namespace

Decoder::Decoder(DecoderConfig config) : config_(std::move(config)) {
  const int64_t v = config_.vocab_size, d = config_.hidden_size;
  embedding_ = &parameters_.add("model.embed_tokens.weight", {v, d});
  for (int64_t i = 0; i < config_.num_hidden_layers; ++i) layers_.push_back(add_layer(i));
  final_norm_ = add_norm("model.norm.weight", d);
  if (config_.num_labels > 0) head_weight_ = &parameters_.add("score.weight", {config_.num_labels, d});
  else head_weight_ = config_.tie_word_embeddings ? embedding_ : &parameters_.add("lm_head.weight", {v, d});
  embedding_->is_table = head_weight_->is_table = true;
  head_ = std::make_unique<nn::Head>(*head_weight_, nn::HeadOptions{config_.norm_head, config_.logit_softcap, config_.z_loss_weight});
  if (config_.positions == PositionEncoding::alibi) {
    alibi_ = alibi_slopes(config_.num_attention_heads);
    return;
  }
  const auto add = [&](const RopeConfig& rope) {
    rotary_.push_back({rope, rope_inverse_frequencies(rope, config_.head_dim), rope_long_frequencies(rope, config_.head_dim), {}});
  };
  add(config_.rope);
  if (config_.local_rope) add(*config_.local_rope);
}

nn::Norm Decoder::add_norm(const std::string& name, int64_t size) {
  return {&parameters_.add(name, {size}), config_.rms_norm_eps, config_.norm_offset};
}

Decoder::Layer Decoder::add_layer(int64_t index) {
  const std::string prefix = fmt::format("model.layers.{}.", index);
  const int64_t d = config_.hidden_size, q = config_.num_attention_heads * config_.head_dim,
                kv = config_.num_key_value_heads * config_.head_dim, ff = config_.intermediate_size;
  struct Part {
    std::string name;
    int64_t rows;
  };
  const auto linear = [&](const std::string& module, const std::vector<Part>& parts, int64_t columns, bool bias) {
    std::vector<nn::ParameterStore::Spec> weights, biases;
    for (const Part& p : parts) weights.push_back({prefix + module + p.name + ".weight", {p.rows, columns}});
    for (const Part& p : parts) biases.push_back({prefix + module + p.name + ".bias", {p.rows}});
    nn::Linear layer;
    layer.weights = parameters_.add_group(weights);
    if (bias) layer.biases = parameters_.add_group(biases);
    return layer;
  };
  Layer layer;
  layer.input_norm = add_norm(prefix + "input_layernorm.weight", d);
  layer.qkv = config_.fused_qkv.empty()
                  ? linear("self_attn.", {{"q_proj", q}, {"k_proj", kv}, {"v_proj", kv}}, d, config_.qkv_bias)
                  : linear("self_attn.", {{config_.fused_qkv, q + 2 * kv}}, d, config_.qkv_bias);
  if (config_.qk_norm) {
    layer.q_norm = add_norm(prefix + "self_attn.q_norm.weight", config_.head_dim);
    layer.k_norm = add_norm(prefix + "self_attn.k_norm.weight", config_.head_dim);
  }
  layer.o = linear("self_attn.", {{"o_proj", d}}, q, config_.o_bias);
  // With norms behind attention and MLP, "post_attention" is the one behind attention.
  if (config_.post_norms) layer.attention_out = add_norm(prefix + "post_attention_layernorm.weight", d);
  layer.mlp_norm = add_norm(prefix + (config_.post_norms ? "pre_feedforward_layernorm.weight" : "post_attention_layernorm.weight"), d);
  layer.gate_up = config_.fused_gate_up ? linear("mlp.", {{"gate_up_proj", 2 * ff}}, d, config_.mlp_bias)
                                        : linear("mlp.", {{"gate_proj", ff}, {"up_proj", ff}}, d, config_.mlp_bias);
  layer.down = linear("mlp.", {{"down_proj", d}}, ff, config_.mlp_bias);
  if (config_.post_norms) layer.mlp_out = add_norm(prefix + "post_feedforward_layernorm.weight", d);
  return layer;
}

nn::Linear& Decoder::layer_linear(int64_t layer, const std::string& name) {
  Layer& l = layers_.at(static_cast<size_t>(layer));
  if (name == "qkv") return l.qkv;
  if (name == "o") return l.o;
  if (name == "gate_up") return l.gate_up;
  if (name == "down") return l.down;
  fail("internal error: a decoder block has no linear layer \"{}\"", name);
}

const Decoder::Rotary* Decoder::rotary_of(int64_t layer) const {
  if (rotary_.empty()) return nullptr;
  return &rotary_[rotary_.size() > 1 && config_.slides(layer) ? 1 : 0];
}

uint64_t Decoder::prepare(Place place, int64_t positions) {
  uint64_t bytes = 0;
  for (const Rotary& r : rotary_) bytes += static_cast<uint64_t>(positions * r.config.rotary_dim(config_.head_dim)) * sizeof(float) + 64;
  tables_ = std::make_unique<Arena>(place, bytes);
  positions_ = positions;
  for (Rotary& r : rotary_) {
    if (r.config.by_length()) continue;
    const int64_t d = r.config.rotary_dim(config_.head_dim);
    r.table = tables_->matrix(Rows::exactly(positions), d, DType::f32);
    if (place.is_dry()) continue;
    const auto scale = static_cast<float>(r.config.attention_factor);
    std::vector<float> rows(static_cast<size_t>(std::min(kTableRows, positions) * d));
    for (int64_t first = 0; first < positions; first += kTableRows) {
      const int64_t n = std::min(kTableRows, positions - first);
#pragma omp parallel for
      for (int64_t p = 0; p < n; ++p) {
        float* row = rows.data() + p * d;
        for (int64_t i = 0; i < d / 2; ++i) {
          const float angle = static_cast<float>(first + p) * r.frequencies[static_cast<size_t>(i)];
          row[i] = scale * std::cos(angle);
          row[i + d / 2] = scale * std::sin(angle);
        }
      }
      put(place.device(), r.table, first * d, std::span(rows).first(static_cast<size_t>(n * d)));
    }
  }
  return tables_->used();
}

const Tensor* Decoder::table_of(nn::Tape& tape, const Rotary& r, const nn::Stream& stream, bool cached) const {
  if (!r.config.by_length()) return &r.table;
  // The rows of a cached sequence count from its beginning: its length is what frequencies follow.
  const Rows rows = cached ? Rows::exactly(stream.past + stream.rows.count) : stream.rows;
  nn::Value table = tape.make(rows, r.config.rotary_dim(config_.head_dim), DType::f32, false);
  tape.keep(table);
  ops::RopeTable args;
  args.table = table->value;
  args.cu_seqlens = cached ? stream.cu_keys : stream.cu_seqlens;
  args.frequency = r.frequencies.data();
  args.long_frequency = r.long_frequencies.empty() ? nullptr : r.long_frequencies.data();
  args.limit = static_cast<int64_t>(r.config.original_max_position_embeddings);
  args.theta = r.config.theta;
  args.factor = r.config.factor;
  args.scale = static_cast<float>(r.config.attention_factor);
  ops::rope_table(tape.context(), args);
  return &table->value;
}

bool Decoder::cache_keeps(int64_t length, int64_t longer) const {
  for (const Rotary& r : rotary_) {
    const auto limit = static_cast<int64_t>(r.config.original_max_position_embeddings);
    if (r.config.type == RopeConfig::Type::dynamic && longer > limit && length > 0) return false;
    if (r.config.type == RopeConfig::Type::longrope && length > 0 && length <= limit && longer > limit) return false;
  }
  return true;
}

bool Decoder::rotates_by_length() const {
  return std::any_of(rotary_.begin(), rotary_.end(), [](const Rotary& r) { return r.config.by_length(); });
}

uint64_t Decoder::cache_bytes(int64_t capacity, DType compute) const {
  const auto rows = static_cast<uint64_t>(capacity * config_.num_key_value_heads * config_.head_dim) * size_of(compute);
  return 2 * static_cast<uint64_t>(config_.num_hidden_layers) * (rows + 64);  // what an arena rounds to
}

KvCache Decoder::make_cache(Arena& arena, int64_t capacity, DType compute) const {
  KvCache cache;
  cache.capacity = capacity;
  const int64_t kv = config_.num_key_value_heads * config_.head_dim;
  for (size_t i = 0; i < layers_.size(); ++i)
    cache.layers.push_back({arena.matrix(Rows::exactly(capacity), kv, compute), arena.matrix(Rows::exactly(capacity), kv, compute)});
  return cache;
}

nn::AttentionCall Decoder::attention_call(const nn::Tape& tape, const BlockCall& b) const {
  const nn::Stream& stream = *b.stream;
  nn::AttentionCall call;
  call.shape.heads = config_.num_attention_heads;
  call.shape.kv_heads = config_.num_key_value_heads;
  call.shape.head_dim = config_.head_dim;
  call.shape.scale = config_.attention_scale > 0 ? config_.attention_scale : 1.0f / std::sqrt(static_cast<float>(config_.head_dim));
  call.shape.softcap = config_.attention_softcap;
  call.shape.window = config_.slides(b.index) ? config_.sliding_window : 0;
  call.shape.alibi = alibi_.empty() ? nullptr : alibi_.data();
  call.shape.pairs = stream.pairs;
  call.shape.max_q = stream.max_seqlen;
  call.shape.max_k = stream.max_seqlen + stream.past;
  if (tape.training()) call.shape.dropout = b.options->attention_dropout;
  call.shape.dropout_key = mix_key(b.options->dropout_key, static_cast<uint64_t>(b.index), 0);
  call.shape.sample_ids = stream.sample_ids;
  call.shape.positions = stream.positions;
  call.stream = &stream;
  call.rope_table = b.rope_table;
  call.rope_by_token = b.rope_table && rotary_of(b.index)->config.by_length();
  call.cache = b.options->cache ? &b.options->cache->layers[static_cast<size_t>(b.index)] : nullptr;
  return call;
}

nn::Value Decoder::block(nn::Tape& tape, nn::Value x, const BlockCall& b) const {
  const Layer& layer = *b.layer;
  const ForwardOptions& options = *b.options;
  const auto site = [&](uint64_t n) { return mix_key(options.dropout_key, static_cast<uint64_t>(b.index), n); };
  const nn::AttentionCall call = attention_call(tape, b);
  const bool post_norms = config_.post_norms;
  const auto dropout = [&](uint64_t n) {
    nn::AdapterDropout d;
    if (tape.training()) d.p = options.adapter_dropout;
    d.key = site(n), d.sample_ids = b.stream->sample_ids, d.positions = b.stream->positions;
    return d;
  };

  // What stands in a scope of its own is made again in backward where recomputation is light.
  const auto make = [&](int64_t cols) { return tape.make(x->value.rows, cols, x->value.dtype, true); };
  const auto output = [&](const nn::Linear& linear, nn::Value y = nullptr) { return nn::linear_output(tape, x->value.rows, linear, x->value.dtype, y); };
  nn::Value delta = make(config_.hidden_size);
  {
    nn::Tape::Scope branch(tape);
    const nn::LinearOutput qkv_output = output(layer.qkv);
    nn::Value qkv = qkv_output.y;
    {
      nn::Tape::Scope light(tape);
      nn::linear(tape, nn::rms_norm(tape, x, layer.input_norm), layer.qkv, qkv_output, dropout(3));
    }
    const nn::Attended a = nn::attended(tape, x->value.rows, call.shape, x->value.dtype);
    {
      nn::Tape::Scope light(tape);
      if (config_.qk_norm) qkv = nn::qk_norm(tape, qkv, layer.q_norm, layer.k_norm, call.shape);
      nn::attention(tape, qkv, call, a);
    }
    nn::Value o = nn::linear(tape, a.out, layer.o, {post_norms ? nullptr : delta}, dropout(4));
    if (post_norms) nn::rms_norm(tape, o, layer.attention_out, delta);
  }
  delta = nn::dropout(tape, delta, options.hidden_dropout, site(1), *b.stream);
  nn::Value h = nn::add(tape, x, delta);

  delta = make(config_.hidden_size);
  {
    nn::Tape::Scope branch(tape);
    const nn::LinearOutput gate_up = output(layer.gate_up);
    {
      nn::Tape::Scope light(tape);
      nn::linear(tape, nn::rms_norm(tape, h, layer.mlp_norm), layer.gate_up, gate_up, dropout(5));
    }
    const nn::LinearOutput down = output(layer.down, post_norms ? nullptr : delta);
    {
      nn::Tape::Scope light(tape);
      nn::linear(tape, nn::swiglu(tape, gate_up.y, config_.activation), layer.down, down, dropout(6));
    }
    if (post_norms) nn::rms_norm(tape, down.y, layer.mlp_out, delta);
  }
  delta = nn::dropout(tape, delta, options.hidden_dropout, site(2), *b.stream);
  return nn::add(tape, h, delta);
}

nn::Value Decoder::forward(nn::Tape& tape, const nn::Stream& stream, DType compute, const ForwardOptions& options) {
  // transformers rounds the scale to the dtype of the weights before it multiplies.
  float scale = 1;
  uint32_t rounded = 0;
  convert(&config_.embedding_scale, DType::f32, &rounded, compute, 1);
  convert(&rounded, compute, &scale, DType::f32, 1);
  nn::Value x = nn::embedding(tape, *embedding_, {stream.tokens, stream.rows, compute, scale}, embedding_adapter_ ? &*embedding_adapter_ : nullptr);
  nn::embedding_noise(tape, x, options.neftune_noise_alpha, mix_key(options.dropout_key, kNoiseSite), stream);
  x = nn::dropout(tape, x, options.embedding_dropout, mix_key(options.dropout_key, kEmbeddingSite), stream);
  tape.reserve_gradient(x);
  std::array<const Tensor*, 2> tables{};
  for (size_t r = 0; r < rotary_.size(); ++r) tables[r] = table_of(tape, rotary_[r], stream, options.cache != nullptr);
  for (int64_t i = 0; i < config_.num_hidden_layers; ++i) {
    const Rotary* rotary = rotary_of(i);
    const BlockCall call{&layers_[static_cast<size_t>(i)], i, &stream, &options,
                         rotary ? tables[static_cast<size_t>(rotary - rotary_.data())] : nullptr};
    nn::Tape* t = &tape;
    const Decoder* self = this;
    x = tape.block(static_cast<int>(i), x, [t, self, call](nn::Value in) { return self->block(*t, in, call); });
  }
  return nn::rms_norm(tape, x, final_norm_);
}

}  // namespace attune::models
