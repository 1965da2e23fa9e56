/* SPDX-License-Identifier: Apache-2.0
 *
 * libhyperattn: exact attention and HyperAttention (arXiv 2310.05869) for long sequences.
 *
 * One head computes out = softmax(softmax_scale * q k^T) v, exactly or approximately in near-linear
 * time. The full semantics are in hyperattn(3) and libhyperattn(7); this header gives shapes,
 * units, defaults and ownership.
 *
 * Conventions: sizes and strides are int64_t and count elements; tensors are row-major and their
 * last dimension is contiguous. Every struct starts with struct_size, which its _init function
 * fills: a smaller one is taken as an earlier version's, whose missing fields have their defaults,
 * a larger one gives HYPERATTN_EVERSION. The library never aborts, exits, prints (unless
 * HYPERATTN_LOG asks for it), changes errno or writes to its inputs.
 */
#ifndef HYPERATTN_H
#define HYPERATTN_H

#include <stddef.h>
#include <stdint.h>

#define HYPERATTN_VERSION_MAJOR 0
#define HYPERATTN_VERSION_MINOR 1
#define HYPERATTN_VERSION_PATCH 0

#if defined(__GNUC__)
#define HYPERATTN_API __attribute__((visibility("default")))
#else
#define HYPERATTN_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- status -------------------------------------------------------------------------------- */

typedef enum hyperattn_status {
    HYPERATTN_OK = 0,
    HYPERATTN_EINVAL = -1,   /* an argument breaks a documented rule */
    HYPERATTN_ENOTSUP = -2,  /* valid, but this backend or build cannot do it */
    HYPERATTN_ENOMEM = -3,   /* the allocator returned NULL */
    HYPERATTN_EBACKEND = -4, /* the requested backend is missing, unusable, or failed */
    HYPERATTN_EVERSION = -5  /* header and library, or library and module, do not match */
} hyperattn_status;

/* Constant text for a status; never NULL. */
HYPERATTN_API const char *hyperattn_strerror(int status);

/* Detail of the last failure in the calling thread: names the argument and its value. Never NULL;
 * "" before the first failure. Valid until the next libhyperattn call of this thread. */
HYPERATTN_API const char *hyperattn_last_error(void);

/* Version of the library that is running, "major.minor.patch". */
HYPERATTN_API const char *hyperattn_version(void);

/* ---- enumerations -------------------------------------------------------------------------- */

typedef enum hyperattn_dtype {
    HYPERATTN_F32,
    HYPERATTN_BF16,
    HYPERATTN_F16
} hyperattn_dtype;

typedef enum hyperattn_method {
    HYPERATTN_AUTO,  /* EXACT; with target_error, the cheapest that meets it, head by head */
    HYPERATTN_EXACT, /* tiled softmax attention */
    HYPERATTN_HYPER, /* HyperAttention */
    HYPERATTN_MULTIPOLE /* near and chosen keys exactly, the others by cells of similar keys */
} hyperattn_method;

typedef enum hyperattn_backend {
    HYPERATTN_BACKEND_AUTO, /* CUDA if its module is there and can serve, else CPU */
    HYPERATTN_BACKEND_CPU,
    HYPERATTN_BACKEND_CUDA  /* the module libhyperattn-cuda.so */
} hyperattn_backend;

/* How the keys that a query block attends to exactly are found, where no block_mask is given. */
typedef enum hyperattn_heavy {
    HYPERATTN_HEAVY_SORTLSH, /* Hamming-sorted LSH, Algorithm 1 */
    HYPERATTN_HEAVY_NONE     /* no block: sampled columns only */
} hyperattn_heavy;

/* How the columns beside the exact block are drawn. */
typedef enum hyperattn_sampling {
    HYPERATTN_SAMPLING_UNIFORM, /* stratified without replacement, afresh for each query block */
    HYPERATTN_SAMPLING_VNORM    /* with replacement, in proportion to |v_j|^2 (Algorithm 3) */
} hyperattn_sampling;

/* ---- context ------------------------------------------------------------------------------- */

/* Backend, instruction-set level, threads and allocator. Immutable once created; may be shared
 * between threads. */
typedef struct hyperattn_ctx hyperattn_ctx;

typedef struct hyperattn_ctx_params {
    size_t struct_size;
    hyperattn_backend backend; /* default HYPERATTN_BACKEND_AUTO */
    int nthreads;              /* 0 (default): what OpenMP would take; 1: no parallel region */
    int device;                /* number of a CUDA device, default 0; with _CPU it must be 0 */
    void *stream;              /* its cudaStream_t, default NULL; with _CPU it must be NULL */
    /* Both NULL (default: posix_memalign and free) or both set. alloc returns size
     * bytes aligned to align, or NULL. They are called from the thread that calls the library. */
    void *(*alloc)(size_t align, size_t size, void *user);
    void (*free)(void *ptr, void *user);
    void *user;
} hyperattn_ctx_params;

HYPERATTN_API void hyperattn_ctx_params_init(hyperattn_ctx_params *params);

/* params NULL: the defaults. On failure *ctx is NULL. */
HYPERATTN_API hyperattn_status hyperattn_ctx_create(hyperattn_ctx **ctx,
                                                    const hyperattn_ctx_params *params);

/* Every plan of the context must be destroyed first. NULL is ignored. */
HYPERATTN_API void hyperattn_ctx_destroy(hyperattn_ctx *ctx);

HYPERATTN_API const char *hyperattn_ctx_backend(const hyperattn_ctx *ctx); /* "cpu", "cuda" */
HYPERATTN_API const char *hyperattn_ctx_isa(const hyperattn_ctx *ctx); /* "ref", "avx2", ... */
/* Why a better backend or level was not taken, or "". */
HYPERATTN_API const char *hyperattn_ctx_reason(const hyperattn_ctx *ctx);

/* ---- problem ------------------------------------------------------------------------------- */

/* What is to be computed.
 *
 * q   [batch, nheads,    seqlen_q, head_dim]
 * k   [batch, nheads_kv, seqlen_k, head_dim]
 * v   [batch, nheads_kv, seqlen_k, head_dim_v]
 * out [batch, nheads,    seqlen_q, head_dim_v]
 * lse [batch, nheads, seqlen_q], packed, f32
 *
 * Query head h reads key head h / (nheads / nheads_kv). */
typedef struct hyperattn_problem {
    size_t struct_size;
    int64_t batch;      /* default 1 */
    int64_t nheads;     /* default 1; a multiple of nheads_kv */
    int64_t nheads_kv;  /* default 0: nheads */
    int64_t seqlen_q;   /* must be set */
    int64_t seqlen_k;   /* default 0: seqlen_q */
    int64_t head_dim;   /* must be set */
    int64_t head_dim_v; /* default 0: head_dim */
    hyperattn_dtype dtype; /* of q, k, v and out; default HYPERATTN_F32 */
    int causal;            /* 0 (default) or 1: row i sees keys j <= i + seqlen_k - seqlen_q */
    float softmax_scale;   /* default 0: 1/sqrt(head_dim); at most FLT_MAX / log2(e), either sign */
    /* Strides in elements of batch, head and row; all zero (default): packed. */
    int64_t q_stride[3], k_stride[3], v_stride[3], out_stride[3];
    /* Ragged batches: both NULL (default), or batch + 1 prefix sums each, starting at 0. Sequence b
     * is rows [cu[b], cu[b+1]) of tensors [head, total rows, dim]; seqlen_q and seqlen_k are then
     * maxima, the batch stride is not used, and lse is [nheads, total_q]. Copied by the plan. */
    const int64_t *cu_seqlens_q, *cu_seqlens_k;
} hyperattn_problem;

HYPERATTN_API void hyperattn_problem_init(hyperattn_problem *problem);

/* ---- params -------------------------------------------------------------------------------- */

/* The paper's predefined mask M^H, in place of sortLSH: query block i (rows [i * query_block,
 * (i+1) * query_block)) attends exactly to the key blocks key_blocks[row_start[i] ..
 * row_start[i+1]-1], sorted and distinct. per_head: the rows of nheads masks, one after the other,
 * in one CSR. Copied by the plan. */
typedef struct hyperattn_block_mask {
    size_t struct_size;
    int64_t query_block, key_block; /* rows and keys per block, >= 1 */
    int per_head;                   /* 0 (default): one mask for all heads */
    const int64_t *row_start;
    const int64_t *key_blocks;
} hyperattn_block_mask;

HYPERATTN_API void hyperattn_block_mask_init(hyperattn_block_mask *mask);

/* How it is computed. EXACT reads only method, and seed for hyperattn_measure; AUTO checks the
 * other fields as HYPER does. HYPER ignores what is below MULTIPOLE's comment. MULTIPOLE reads
 * that, num_sinks, window and strict_causal, and ignores the hash, blocks, samples and min_seq_len;
 * kappa_cap and block_mask it does not have: HYPERATTN_ENOTSUP. It computes sequences of fewer than
 * 256 query rows as EXACT does. All read target_error. */
typedef struct hyperattn_params {
    size_t struct_size;
    hyperattn_method method;     /* default HYPERATTN_AUTO */
    hyperattn_heavy heavy;       /* default HYPERATTN_HEAVY_SORTLSH */
    hyperattn_sampling sampling; /* default HYPERATTN_SAMPLING_UNIFORM */
    int lsh_num_projs;           /* hash bits, 1..16; default 7 */
    int block_size;              /* keys per block, >= 1; default 256 */
    int sample_size;             /* columns sampled beside the block, 0: none; default 256 */
    int min_seq_len;             /* causal: exact at and below this length, >= 1; default 1024 */
    int num_sinks;               /* first keys attended exactly by every row; default 16 */
    int window;                  /* causal: nearest keys attended exactly by every row; default 0 */
    int strict_causal;           /* 1: row i of out depends on no row after i; default 0 */
    float kappa_cap;             /* > 0: Algorithm 2's row-wise cap with this kappa; default 0 */
    uint64_t seed;               /* default 0 */
    const hyperattn_block_mask *block_mask; /* default NULL */
    /* MULTIPOLE; 0, the default of each, and of its window, takes what the budget gives. */
    int budget;              /* work a query, in keys of exact attention at n = 8192: 64..1000000 */
    int leaf_size;           /* causal: rows that share their nearest keys; a multiple of 128, up to
                              * 2048 */
    int num_selected;        /* most keys that are chosen for each bundle of 128 rows */
    int num_candidates;      /* keys that are kept apart from the far cells */
    float private_depth;     /* nats below the logarithm of a row's sum to which single keys are
                              * looked for; negative: they are not, and the chosen ones are the
                              * heaviest candidates */
    int cell_size;           /* keys of a cell: 8, 16, 32, 64 or 128 */
    int far_cell_size;       /* keys of the cells that hold no candidates, >= cell_size */
    /* > 0, up to 1: each query head of each sequence gets the cheapest step of the plan's ladder
     * whose relative error, estimated on rows that are computed exactly, is below this; the last
     * step is EXACT. Default 0: no choice. */
    float target_error;
} hyperattn_params;

/* Our defaults. */
HYPERATTN_API void hyperattn_params_init(hyperattn_params *params);

/* The published algorithm: method HYPER, 7 projections, block 256, sample 256, min_seq_len 4096,
 * no sinks, no window. */
HYPERATTN_API void hyperattn_params_paper(hyperattn_params *params);

/* ---- plan ---------------------------------------------------------------------------------- */

/* A validated problem with its params: immutable, may be used by several threads at once. The
 * context must outlive it. */
typedef struct hyperattn_plan hyperattn_plan;

/* params NULL: the defaults. On failure *plan is NULL and nothing stays allocated. */
HYPERATTN_API hyperattn_status hyperattn_plan_create(hyperattn_plan **plan, hyperattn_ctx *ctx,
                                                     const hyperattn_problem *problem,
                                                     const hyperattn_params *params);
HYPERATTN_API void hyperattn_plan_destroy(hyperattn_plan *plan);

/* EXACT, HYPER or MULTIPOLE; what HYPERATTN_AUTO became. With target_error: the params' method,
 * AUTO too, as each call chooses for each head; EXACT where the ladder has no other step. */
HYPERATTN_API hyperattn_method hyperattn_plan_method(const hyperattn_plan *plan);

/* Steps of the ladder that each head's choice is made from, by cost, EXACT the last. 1 without
 * target_error, and where nothing is cheaper than EXACT; 0 if plan is NULL. */
HYPERATTN_API int hyperattn_plan_steps(const hyperattn_plan *plan);

/* The params of a step, from 0 on: a plan with them computes what a head gets that takes it, bit
 * for bit. params->struct_size is set by the caller (hyperattn_params_init). */
HYPERATTN_API hyperattn_status hyperattn_plan_step(const hyperattn_plan *plan, int step,
                                                   hyperattn_params *params);

/* Bytes of workspace that one hyperattn_forward (backward 0) or hyperattn_backward (1) call needs.
 * A workspace is 64-byte aligned and serves one call at a time. */
HYPERATTN_API size_t hyperattn_plan_workspace(const hyperattn_plan *plan, int backward);

/* ---- run ----------------------------------------------------------------------------------- */

/* out and, unless NULL, lse (natural log of the softmax denominator). A row that sees no key gives
 * zeros and lse = -inf. Weighted rows of v are summed before the sum is divided, so the largest |v|
 * times the number of keys must be below FLT_MAX. out and lse must not overlap q, k, v or each
 * other. workspace NULL: taken from the context's allocator for this call; otherwise nothing is
 * allocated. */
HYPERATTN_API hyperattn_status hyperattn_forward(const hyperattn_plan *plan, const void *q,
                                                 const void *k, const void *v, void *out,
                                                 float *lse, void *workspace);

/* What a query head got. A version that knows more fields than the caller's struct_size says writes
 * only those that it holds. */
typedef struct hyperattn_choice {
    size_t struct_size;
    hyperattn_method method; /* EXACT, HYPER or MULTIPOLE */
    int budget;              /* MULTIPOLE's, else 0 */
    int step;                /* of the ladder: hyperattn_plan_step gives its params */
    int tried;               /* steps that were computed for all of it, this one among them */
    double rel_error; /* as in hyperattn_report, estimated on the rows by which the step was chosen;
                       * NaN: EXACT, or a plan without target_error, where none are looked at */
    int64_t rows_checked; /* those rows; 0 with NaN */
} hyperattn_choice;

HYPERATTN_API void hyperattn_choice_init(hyperattn_choice *choice);

/* hyperattn_forward, which says what it chose. per_head: batch * nheads entries, each of the
 * struct_size that entry 0 holds, which all get. */
HYPERATTN_API hyperattn_status hyperattn_forward_report(const hyperattn_plan *plan, const void *q,
                                                        const void *k, const void *v, void *out,
                                                        float *lse, void *workspace,
                                                        hyperattn_choice *per_head);

/* The gradients of a scalar loss with respect to q, k and v, from dout, that with respect to out.
 * out and lse are what hyperattn_forward gave for the same plan, q, k and v, or hyperattn_merge for
 * these keys among others. dout has out's shape and strides; dq, dk and dv are written, with the
 * shapes and strides of q, k and v (dk and dv summed over the query heads that read a key head).
 * What they hold before does not matter; they must not overlap anything else. workspace NULL: taken
 * from the context's allocator for this call; otherwise nothing is allocated. With target_error the
 * choice is made again, at the cost of a forward. */
HYPERATTN_API hyperattn_status hyperattn_backward(const hyperattn_plan *plan, const void *q,
                                                  const void *k, const void *v, const void *out,
                                                  const float *lse, const void *dout, void *dq,
                                                  void *dk, void *dv, void *workspace);

/* Folds a second partial result (out2, lse2: same shapes and strides, other keys) into out and
 * lse, as if the keys of both had been attended at once. */
HYPERATTN_API hyperattn_status hyperattn_merge(const hyperattn_plan *plan, void *out, float *lse,
                                               const void *out2, const float *lse2);

/* ---- measure ------------------------------------------------------------------------------- */

/* How good an output is. A version that knows more fields than the caller's struct_size says writes
 * only those that it holds. */
typedef struct hyperattn_report {
    size_t struct_size;
    double rel_error;      /* |out - exact| / |exact|, Frobenius norms over all rows, estimated */
    double rel_error_low;  /* its 95 % interval: that of the rows at hand, where they are all */
    double rel_error_high; /* infinity: no limit can be given */
    double max_row_error;  /* largest |out_i - exact_i| of a checked row, divided by the root mean
                            * square of |exact_i| over the checked rows of its head */
    double alpha;          /* seqlen_k times the largest squared column norm of the softmax */
    double kappa;          /* largest over smallest row sum without the large entries, at least 1 */
    int64_t rows_checked;
} hyperattn_report;

HYPERATTN_API void hyperattn_report_init(hyperattn_report *report);

/* Computes `rows` (at least 1; all, if there are no more) random query rows of every head exactly,
 * in f32, and compares them with out, which has the plan's shape and strides and may be any
 * method's. total is over all heads: errors over the rows of all, the largest max_row_error, alpha
 * and kappa. per_head, or NULL: batch * nheads entries, each of the struct_size that entry 0 holds,
 * which all get. The rows are drawn by params.seed. The memory comes from the context's allocator.
 * A NaN or infinity in out makes the four errors of its head and of total NaN. */
HYPERATTN_API hyperattn_status hyperattn_measure(const hyperattn_plan *plan, const void *q,
                                                 const void *k, const void *v, const void *out,
                                                 int64_t rows, hyperattn_report *total,
                                                 hyperattn_report *per_head);

#ifdef __cplusplus
}
#endif

#endif /* HYPERATTN_H */
