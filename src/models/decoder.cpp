#include "models/decoder.h"

#include <cmath>

#include "util/error.h"
#include "util/rng.h"

namespace attune::models {
namespace {

// Places of randomness outside of the blocks, which take 0, 1, 2 …
constexpr uint64_t kEmbeddingSite = ~uint64_t{0}, kNoiseSite = ~uint64_t{1};

}  // namespace

std::vector<float> rope_inverse_frequencies(const RopeConfig& rope, int64_t head_dim) {
  std::vector<float> out;
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(head_dim);
    float f = 1.0f / std::pow(static_cast<float>(rope.theta), exponent);
    if (rope.type == RopeConfig::Type::llama3) {
      // Long wavelengths are stretched by `factor`, short ones kept, those between blended (Llama 3.1 release).
      const double wavelength = 2.0 * M_PI / f, context = rope.original_max_position_embeddings;
      if (wavelength > context / rope.low_freq_factor) {
        f = static_cast<float>(f / rope.factor);
      } else if (wavelength >= context / rope.high_freq_factor) {
        const double smooth = (context / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
        f = static_cast<float>((1 - smooth) * f / rope.factor + smooth * f);
      }
    }
    out.push_back(f);
  }
  return out;
}

Decoder::Decoder(DecoderConfig config) : config_(std::move(config)) {
  embedding_ = &parameters_.add("model.embed_tokens.weight", {config_.vocab_size, config_.hidden_size});
  for (int64_t i = 0; i < config_.num_hidden_layers; ++i) layers_.push_back(add_layer(i));
  final_norm_ = &parameters_.add("model.norm.weight", {config_.hidden_size});
  head_weight_ = config_.tie_word_embeddings
                     ? embedding_
                     : &parameters_.add("lm_head.weight", {config_.vocab_size, config_.hidden_size});
  head_ = std::make_unique<nn::Head>(*head_weight_);
}

Decoder::Layer Decoder::add_layer(int64_t index) {
  const std::string prefix = fmt::format("model.layers.{}.", index);
  const int64_t d = config_.hidden_size, q = config_.num_attention_heads * config_.head_dim,
                kv = config_.num_key_value_heads * config_.head_dim, ff = config_.intermediate_size;
  const auto bias = [&](bool wanted, const std::string& name, int64_t size) {
    std::vector<nn::Parameter*> group;
    if (wanted) group.push_back(&parameters_.add(prefix + name, {size}));
    return group;
  };
  Layer layer;
  layer.input_norm = &parameters_.add(prefix + "input_layernorm.weight", {d});
  layer.qkv.weights = parameters_.add_group({{prefix + "self_attn.q_proj.weight", {q, d}},
                                             {prefix + "self_attn.k_proj.weight", {kv, d}},
                                             {prefix + "self_attn.v_proj.weight", {kv, d}}});
  if (config_.qkv_bias)
    layer.qkv.biases = parameters_.add_group({{prefix + "self_attn.q_proj.bias", {q}},
                                              {prefix + "self_attn.k_proj.bias", {kv}},
                                              {prefix + "self_attn.v_proj.bias", {kv}}});
  layer.o.weights = {&parameters_.add(prefix + "self_attn.o_proj.weight", {d, q})};
  layer.o.biases = bias(config_.o_bias, "self_attn.o_proj.bias", d);
  layer.post_attention_norm = &parameters_.add(prefix + "post_attention_layernorm.weight", {d});
  layer.gate_up.weights = parameters_.add_group({{prefix + "mlp.gate_proj.weight", {ff, d}},
                                                 {prefix + "mlp.up_proj.weight", {ff, d}}});
  if (config_.mlp_bias)
    layer.gate_up.biases = parameters_.add_group({{prefix + "mlp.gate_proj.bias", {ff}}, {prefix + "mlp.up_proj.bias", {ff}}});
  layer.down.weights = {&parameters_.add(prefix + "mlp.down_proj.weight", {d, ff})};
  layer.down.biases = bias(config_.mlp_bias, "mlp.down_proj.bias", d);
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

uint64_t Decoder::prepare(Arena::Kind kind, int64_t positions) {
  const int64_t d = config_.head_dim;
  tables_ = std::make_unique<Arena>(kind, static_cast<uint64_t>(positions * d) * sizeof(float) + 64);
  rope_table_ = tables_->matrix(Rows::exactly(positions), d, DType::f32);
  if (kind == Arena::Kind::dry) return tables_->used();
  const std::vector<float> frequency = rope_inverse_frequencies(config_.rope, d);
#pragma omp parallel for
  for (int64_t p = 0; p < positions; ++p) {
    float* row = rope_table_.row<float>(p);
    for (int64_t i = 0; i < d / 2; ++i) {
      const float angle = static_cast<float>(p) * frequency[static_cast<size_t>(i)];
      row[i] = std::cos(angle);
      row[i + d / 2] = std::sin(angle);
    }
  }
  return tables_->used();
}

KvCache Decoder::make_cache(Arena& arena, int64_t capacity, DType compute) const {
  KvCache cache;
  cache.capacity = capacity;
  const int64_t kv = config_.num_key_value_heads * config_.head_dim;
  for (size_t i = 0; i < layers_.size(); ++i)
    cache.layers.push_back({arena.matrix(Rows::exactly(capacity), kv, compute), arena.matrix(Rows::exactly(capacity), kv, compute)});
  return cache;
}

nn::Value Decoder::block(nn::Tape& tape, const Layer& layer, int64_t index, nn::Value x, const nn::Stream& stream,
                         const ForwardOptions& options) const {
  const auto site = [&](uint64_t n) { return mix_key(options.dropout_key, static_cast<uint64_t>(index), n); };
  nn::AttentionCall call;
  call.shape.heads = config_.num_attention_heads;
  call.shape.kv_heads = config_.num_key_value_heads;
  call.shape.head_dim = config_.head_dim;
  call.shape.scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim));
  call.shape.max_q = stream.max_seqlen;
  call.shape.max_k = stream.max_seqlen + stream.past;
  if (tape.training()) call.shape.dropout = options.attention_dropout;
  call.shape.dropout_key = site(0);
  call.shape.sample_ids = stream.sample_ids;
  call.shape.positions = stream.positions;
  call.stream = &stream;
  call.rope_table = &rope_table_;
  call.cache = options.cache ? &options.cache->layers[static_cast<size_t>(index)] : nullptr;

  nn::Value delta = tape.make(x->value.rows, config_.hidden_size, x->value.dtype, true);
  {
    nn::Tape::Scope scope(tape);
    nn::Value n = nn::rms_norm(tape, x, *layer.input_norm, config_.rms_norm_eps);
    nn::Value qkv = nn::linear(tape, n, layer.qkv);
    nn::Value a = nn::attention(tape, qkv, call);
    nn::linear(tape, a, layer.o, delta);
  }
  delta = nn::dropout(tape, delta, options.hidden_dropout, site(1), stream);
  nn::Value h = nn::add(tape, x, delta);

  delta = tape.make(x->value.rows, config_.hidden_size, x->value.dtype, true);
  {
    nn::Tape::Scope scope(tape);
    nn::Value n = nn::rms_norm(tape, h, *layer.post_attention_norm, config_.rms_norm_eps);
    nn::Value gate_up = nn::linear(tape, n, layer.gate_up);
    nn::Value act = nn::swiglu(tape, gate_up);
    nn::linear(tape, act, layer.down, delta);
  }
  delta = nn::dropout(tape, delta, options.hidden_dropout, site(2), stream);
  return nn::add(tape, h, delta);
}

nn::Value Decoder::forward(nn::Tape& tape, const nn::Stream& stream, DType compute, const ForwardOptions& options) {
  nn::Value x = nn::embedding(tape, stream.tokens, stream.rows, *embedding_, compute);
  nn::embedding_noise(tape, x, options.neftune_noise_alpha, mix_key(options.dropout_key, kNoiseSite), stream);
  x = nn::dropout(tape, x, options.embedding_dropout, mix_key(options.dropout_key, kEmbeddingSite), stream);
  tape.reserve_gradient(x);
  const nn::Stream* s = &stream;
  const ForwardOptions* o = &options;
  for (int64_t i = 0; i < config_.num_hidden_layers; ++i) {
    const Layer* layer = &layers_[static_cast<size_t>(i)];
    nn::Tape* t = &tape;
    const Decoder* self = this;
    x = tape.block(static_cast<int>(i), x, [t, self, layer, i, s, o](nn::Value in) { return self->block(*t, *layer, i, in, *s, *o); });
  }
  return nn::rms_norm(tape, x, *final_norm_, config_.rms_norm_eps);
}

}  // namespace attune::models
