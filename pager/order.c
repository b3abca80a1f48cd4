/* Orders: bytes that somebody else moves or reads for us.
 *
 *   id = generation of the slot << 32 | frame that is written or digested
 *
 * A frame has at most one order into it at a time (a ZERO that must come before a COPY
 * holds it back), so the frame is the slot and the table has one row a frame. */
#include "pager/pager_priv.h"

static const uint8_t kind_of[] = {
    [KVP_WORK_SEAL] = KVP_ORDER_DIGEST, [KVP_WORK_RECHECK] = KVP_ORDER_DIGEST,
    [KVP_WORK_ZERO] = KVP_ORDER_ZERO,   [KVP_WORK_PAGE] = KVP_ORDER_COPY,
    [KVP_WORK_ARRIVE] = KVP_ORDER_COPY, [KVP_WORK_DEMOTE] = KVP_ORDER_COPY,
};

void kvp_order_give(
    struct kvp_pager *p, uint32_t dst, enum kvp_work work, uint32_t src, uint32_t len)
{
    struct kvp_frame_cold *cold = &p->cold[dst];
    const bool copies = kind_of[work] == KVP_ORDER_COPY;
    struct kvp_order order = {
        .kind = kind_of[work], .dst = kvp_ref_of(p, dst), .len = len};

    KV_ASSERT(cold->work == KVP_WORK_NONE && work != KVP_WORK_NONE);
    KV_ASSERT(copies == (src != KVP_NO_FRAME));
    KV_ASSERT(len <= p->pools[p->frames[dst].pool].config.frame_bytes);
    kvp_io_take(p, dst);
    if (copies) {
        kvp_io_take(p, src);
        cold->copy_src = src;
        order.src = kvp_ref_of(p, src);
    }
    cold->work = (uint8_t)work;
    cold->order_gen++;
    p->nr_orders++;
    order.id = (uint64_t)cold->order_gen << 32 | dst;
    p->out.order(p->out.arg, &order);
}

void kvp_prepare(struct kvp_pager *p, uint32_t i, uint32_t src, uint32_t len)
{
    const struct kvp_frame *f = &p->frames[i];
    struct kvp_frame_cold *cold = &p->cold[i];

    KV_ASSERT(f->state == KVP_FILLING);
    if (cold->bytes_of != KVP_BYTES_NOBODYS && cold->bytes_of != f->tenant) {
        if (src != KVP_NO_FRAME) {
            kvp_io_take(p, src); /* it must outlast the ZERO */
        }
        cold->copy_src = src;
        cold->copy_len = len;
        p->metrics.zeroed++;
        kvp_order_give(
            p, i, KVP_WORK_ZERO, KVP_NO_FRAME, p->pools[f->pool].config.frame_bytes);
        return;
    }
    cold->bytes_of = f->tenant;
    if (src != KVP_NO_FRAME) {
        kvp_order_give(p, i, KVP_WORK_PAGE, src, len);
    }
}

static void zero_done(struct kvp_pager *p, uint32_t i, kv_status_t status)
{
    struct kvp_frame *f = &p->frames[i];
    struct kvp_frame_cold *cold = &p->cold[i];
    const uint32_t src = cold->copy_src;
    const bool filling = f->state == KVP_FILLING;

    KV_ASSERT(filling || f->state == KVP_QUARANTINE);
    cold->copy_src = KVP_NO_FRAME;
    if (status != KV_OK) {
        f->flags |= KVP_F_FAILED;
    } else {
        cold->bytes_of = filling ? f->tenant : KVP_BYTES_NOBODYS;
    }
    if (src == KVP_NO_FRAME) {
        return;
    }
    if (filling && status == KV_OK) {
        kvp_order_give(p, i, KVP_WORK_PAGE, src, cold->copy_len);
    }
    kvp_io_drop(p, src);
    kvp_settle(p, src);
}

static void work_done(
    struct kvp_pager *p, uint32_t i, enum kvp_work work, uint32_t src,
    kv_status_t status, uint64_t computed)
{
    switch (work) {
    case KVP_WORK_SEAL:
        kvp_seal_done(p, i, status, computed);
        return;
    case KVP_WORK_RECHECK:
        kvp_recheck_done(p, i, status, computed);
        return;
    case KVP_WORK_ZERO:
        zero_done(p, i, status);
        return;
    case KVP_WORK_PAGE:
        if (status != KV_OK) {
            p->frames[i].flags |= KVP_F_FAILED;
        }
        return;
    case KVP_WORK_ARRIVE:
        p->out.copied(p->out.arg, kvp_ref_of(p, i), status, computed);
        return;
    case KVP_WORK_DEMOTE:
        kvp_demote_done(p, i, src, status, computed);
        return;
    case KVP_WORK_NONE:
        break;
    }
    KV_ASSERT(false && "known work");
}

kv_status_t
kvp_order_done(kvp_pager_t *pager, uint64_t id, kv_status_t status, uint64_t computed)
{
    struct kvp_pager *p = pager;
    const uint32_t i = (uint32_t)id;

    if (i >= p->nr_frames || p->cold[i].work == KVP_WORK_NONE
        || (p->cold[i].order_gen != id >> 32
            && !KV_PLANTED(KV_PLANT_LATE_COMPLETION))) {
        p->metrics.stale_orders++;
        return KV_ERR_STALE;
    }
    struct kvp_frame_cold *cold = &p->cold[i];
    const enum kvp_work work = cold->work;
    const bool copies = kind_of[work] == KVP_ORDER_COPY;
    const uint32_t src = copies ? cold->copy_src : KVP_NO_FRAME;

    KV_ASSERT(p->nr_orders > 0);
    KV_ASSERT(p->frames[i].state != KVP_FREE); /* (1) */
    p->nr_orders--;
    cold->work = KVP_WORK_NONE;
    kvp_io_drop(p, i);
    if (copies) {
        cold->copy_src = KVP_NO_FRAME;
        kvp_io_drop(p, src);
    }
    work_done(p, i, work, src, status, computed);
    kvp_settle(p, i);
    if (copies) {
        kvp_settle(p, src);
    }
    return KV_OK;
}

uint64_t kvp_orders_out(const kvp_pager_t *pager)
{
    KV_ASSERT(pager->nr_orders <= pager->nr_frames);
    return pager->nr_orders;
}
