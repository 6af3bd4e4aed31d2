// Where numbers lie. Ops compute there; everybody else asks for them through tensor/transfer.h.
#pragma once

#include <cstdint>

namespace attune {

class Device {
 public:
  virtual ~Device() = default;
  virtual const char* name() const = 0;  // "cpu", "cuda (NVIDIA H200)"
  // The host's own memory: pointers may be followed, and nothing below is ever waited for.
  virtual bool is_host() const { return false; }
  // Bytes: all there are, and what is free now.
  virtual uint64_t total_memory() const = 0;
  virtual uint64_t free_memory() const = 0;
  // What this process holds of it, libraries included.
  virtual uint64_t held_memory() const = 0;

  // Addresses for so many bytes, 256-byte aligned; nullptr where there are none. They may be more than there is memory for.
  virtual void* reserve(uint64_t bytes) = 0;
  // Puts memory of undefined content behind the first `bytes` of a reserved range, as far as there is none yet. False where it
  // does not suffice. The host does it by itself, page by page, when they are touched.
  virtual bool commit(void* base, uint64_t bytes) = 0;
  virtual void release(void* base, uint64_t bytes) = 0;

  // In the order of the ops given to this device. `upload` may return before the device has the bytes, but `from` is free to
  // change; `download` returns when they are there.
  virtual void upload(void* to, const void* from, uint64_t bytes) = 0;
  virtual void download(void* to, const void* from, uint64_t bytes) = 0;
  virtual void copy(void* to, const void* from, uint64_t bytes) = 0;
  virtual void zero(void* to, uint64_t bytes) = 0;
  // Returns when everything given to the device is done; throws what went wrong there.
  virtual void synchronize() = 0;
};

// Pages are touched when they are first used, huge where the system has them.
Device& host();

// Memory on a device, or addresses alone (a dry run).
class Place {
 public:
  Place(Device& device) : device_(&device) {}  // NOLINT: a device is the usual place
  static Place host() { return attune::host(); }
  static Place dry() { return {}; }

  bool is_dry() const { return !device_; }
  Device& device() const { return *device_; }  // of a place that is not dry

 private:
  Place() = default;
  Device* device_ = nullptr;
};

}  // namespace attune
