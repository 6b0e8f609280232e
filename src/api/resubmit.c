/* SPDX-License-Identifier: MIT */
/* A device failed: its sequences go on elsewhere. What n_out covers was handed out
 * before the fault and is right; the next worker prefills prompt and these tokens and
 * draws with the same (seed, position), so the client sees the text that it would
 * have seen. No more than a pause shows.
 *
 *   final event, TL_FINISH_FAULT ─► room released ─► two of its steps failed? ── yes ─► 500
 *                                                     │ no
 *                     submitted again ◄── room? ◄─────┴──── stranded: again with every event of
 *                                           │ no                 the loop and look of the monitor
 *                                           └────────────────────► for API_PATIENCE, then 503; at its deadline 504
 *
 * Only steps that computed the sequence count: one that waited in a queue has not
 * harmed anybody and may be moved as often as it takes. */
#include "api/api_private.h"
#include "tokenlane/base/clock.h"

static bool is_wanted(const struct api_choice *choice) {
  /* relaxed: its own flag, or one that the loop itself set */
  return choice->call->request && !choice->done && !atomic_load_explicit(&choice->seq->cancel, memory_order_relaxed);
}

/* TL_EBUSY: nobody takes it now. */
static int submit_again(struct api_choice *choice) {
  struct api_call *call = choice->call;
  struct tl_sequence *seq = choice->seq;
  /* What it has is prefilled, and the room it takes in the end is the same. relaxed: the
   * final event came after it */
  uint32_t n_known = seq->n_prompt + atomic_load_explicit(&seq->n_out, memory_order_relaxed);
  struct tl_route_ask ask = {.tokens = api_cost(seq), .n_seqs = 1, .prompt = seq->tokens, .n_prompt = n_known, .adapter = seq->adapter, .moved = true};
  unsigned retry_after_s;
  int64_t began_ns = api_span_now(call);
  /* without a shard: what is tried again and again is not counted as refused */
  int r = tl_route_reserve(call->work.serving->route, &ask, NULL, &choice->room, &retry_after_s, NULL);
  if (r < 0) return r;
  api_span_route(call, began_ns, &choice->room);
  tl_metrics_add(tl_http_shard(call->api->o.http, call->loop), call->api->resubmitted, 1);
  seq->replica = choice->room.replica;
  seq->finish = TL_FINISH_NONE;
  tl_engine_submit(call->work.serving->engine, seq->replica, seq);
  return TL_OK;
}

bool api_resubmit(struct api_choice *choice) {
  struct api_call *call = choice->call;
  struct tl_api *api = call->api;
  if (!is_wanted(choice)) {
    choice->seq->finish = TL_FINISH_CANCELLED;
    return false;
  }
  if (choice->seq->n_faults >= API_MOST_FAULTS) return false;
  if (submit_again(choice) == TL_OK) return true;
  choice->stranded_ns = tl_now_ns();
  choice->next_stranded = api->loops[call->loop].stranded;
  api->loops[call->loop].stranded = choice;
  atomic_fetch_add_explicit(&api->n_stranded, 1, memory_order_relaxed); /* see tl_api_retry */
  return true;
}

static void forget(struct tl_api *api) {
  atomic_fetch_sub_explicit(&api->n_stranded, 1, memory_order_relaxed);
}

/* Why it does not wait for room any longer: nobody wants it, its time is over (no worker has it, who would see that), or nobody
 * came back. TL_FINISH_NONE: it waits. */
static enum tl_finish verdict(const struct api_choice *choice, int64_t now_ns) {
  int64_t deadline_ns = choice->seq->deadline_ns;
  if (!is_wanted(choice)) return TL_FINISH_CANCELLED;
  if (deadline_ns && now_ns >= deadline_ns) return TL_FINISH_EXPIRED;
  return now_ns - choice->stranded_ns > API_PATIENCE ? TL_FINISH_FAULT : TL_FINISH_NONE;
}

/* Its call may be freed. */
static void end(struct api_choice *choice, enum tl_finish why) {
  struct api_call *call = choice->call;
  struct tl_error err = {0};
  choice->seq->finish = why == TL_FINISH_EXPIRED ? TL_FINISH_EXPIRED : TL_FINISH_CANCELLED;
  api_choice_ended(choice);
  if (why == TL_FINISH_EXPIRED) {
    api_choice_advance(choice);
  } else if (why == TL_FINISH_FAULT) {
    tl_error_set(&err, TL_EBUSY, NULL, "no device is ready to serve; try again later");
    err.http_status = 503;
    api_call_fail(call, &err);
  }
  if (call->n_live == 0 && !call->request) api_call_free(call);
}

void api_retry_stranded(struct tl_api *api, unsigned loop) {
  struct api_loop *l = &api->loops[loop];
  int64_t now_ns = tl_now_ns();
  for (struct api_choice **at = &l->stranded; *at;) {
    struct api_choice *choice = *at;
    enum tl_finish why = verdict(choice, now_ns);
    if (why == TL_FINISH_NONE && submit_again(choice) < 0) {
      at = &choice->next_stranded;
      continue;
    }
    *at = choice->next_stranded;
    forget(api);
    if (why == TL_FINISH_NONE) continue;
    end(choice, why);
    at = &l->stranded; /* what it pointed into may be gone, and others of the same call with it */
  }
}

void api_end_stranded(struct api_call *call) {
  for (struct api_choice **at = &call->api->loops[call->loop].stranded; *at;) {
    struct api_choice *choice = *at;
    if (choice->call != call) {
      at = &choice->next_stranded;
      continue;
    }
    *at = choice->next_stranded;
    forget(call->api);
    choice->seq->finish = TL_FINISH_CANCELLED;
    api_choice_ended(choice);
  }
}
