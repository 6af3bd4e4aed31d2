// One small file per model family: its config.json keys and what it does differently.
#pragma once

#include <string>
#include <vector>

#include "models/decoder_config.h"
#include "util/json.h"

namespace attune::models {

// Reads a config.json of any supported family. `where` names the file in messages. An unsupported family is refused
// by name, with the list of those supported; so is a feature of a supported family that would change results.
DecoderConfig parse_config(const Json& config, const std::string& where);

const std::vector<std::string>& supported_families();

namespace families {

// Keys that the Llama lineage shares, in the old (rope_theta, rope_scaling, torch_dtype) and the new dialect
// (rope_parameters, dtype) of transformers.
DecoderConfig common(const Json& config, const std::string& where);

DecoderConfig llama(const Json& config, const std::string& where);
DecoderConfig qwen2(const Json& config, const std::string& where);

// Typed access with messages that name file and key.
int64_t integer(const Json& config, const std::string& key, const std::string& where);
int64_t integer_or(const Json& config, const std::string& key, int64_t fallback, const std::string& where);
double number_or(const Json& config, const std::string& key, double fallback, const std::string& where);
bool flag_or(const Json& config, const std::string& key, bool fallback, const std::string& where);
std::string text_or(const Json& config, const std::string& key, const std::string& fallback, const std::string& where);

}  // namespace families
}  // namespace attune::models
