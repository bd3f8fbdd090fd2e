// The part of DLPack 1.3 that reading tensors takes: the layout of a tensor, the two kinds of
// capsule, and the table of functions that a framework hangs on its tensor type as
// __dlpack_c_exchange_api__. Names are the standard's, so that they can be looked up there.
#pragma once

#include <cstdint>

namespace blatam::dlpack {

struct Version {
  uint32_t major;
  uint32_t minor;
};

struct Device {
  int32_t device_type;
  int32_t device_id;
};
inline constexpr int32_t kCpu = 1;
inline constexpr int32_t kCuda = 2;
inline constexpr int32_t kCudaHost = 3;  // pinned memory of the host
inline constexpr int32_t kCudaManaged = 13;

struct DataType {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
};
inline constexpr uint8_t kInt = 0;
inline constexpr uint8_t kUInt = 1;
inline constexpr uint8_t kFloat = 2;
inline constexpr uint8_t kBfloat = 4;
inline constexpr uint8_t kFloat8E4M3FN = 10;
inline constexpr uint8_t kFloat8E5M2 = 12;

struct Tensor {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t* shape;
  int64_t* strides;  // in elements; null: compact
  uint64_t byte_offset;
};

// What a capsule named "dltensor" holds.
struct ManagedTensor {
  Tensor dl_tensor;
  void* manager_ctx;
  void (*deleter)(ManagedTensor*);
};

// What a capsule named "dltensor_versioned" holds.
struct ManagedTensorVersioned {
  Version version;
  void* manager_ctx;
  void (*deleter)(ManagedTensorVersioned*);
  uint64_t flags;
  Tensor dl_tensor;
};
inline constexpr uint64_t kReadOnly = 1;

struct ExchangeApi {
  Version version;
  ExchangeApi* prev_api;
  void* managed_tensor_allocator;
  void* managed_tensor_from_py_object_no_sync;
  void* managed_tensor_to_py_object_no_sync;
  // Borrowed for as long as the object lives. May be null. Returns 0, or -1 with a Python error.
  int (*dltensor_from_py_object_no_sync)(void* py_object, Tensor* out);
  // The framework's stream for a device. Returns 0, or -1 with a Python error.
  int (*current_work_stream)(int32_t device_type, int32_t device_id, void** out);
};

}  // namespace blatam::dlpack
