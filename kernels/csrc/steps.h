// The outer optimizers, each multiply and add by itself. As kernels/reference/steps.py.
#include "bits.h"
#include "job.h"

INLINE void nesterov(const struct job *job, const float *restrict d, size_t at, size_t n) {
    float *restrict theta = job->theta + at, *restrict momentum = job->momentum + at;
    float lr = job->lr, mu = job->mu;
    for (size_t i = 0; i < n; i++) {
        float m = mu * momentum[i];
        m = m + d[i];
        float ahead = mu * m;
        ahead = d[i] + ahead;
        float step = lr * ahead;
        momentum[i] = m;
        theta[i] = theta[i] - step;
    }
}

INLINE void average(const struct job *job, const float *restrict d, size_t at, size_t n) {
    float *restrict theta = job->theta + at;
    float lr = job->lr;
    for (size_t i = 0; i < n; i++) {
        float step = lr * d[i];
        theta[i] = theta[i] - step;
    }
}

INLINE void delayed(const struct job *job, const float *restrict d, size_t at, size_t n) {
    float *restrict theta = job->theta + at, *restrict gathered = job->gathered + at;
    float lr = job->lr, delay = job->delay;
    for (size_t i = 0; i < n; i++) {
        float share = d[i] / delay;
        gathered[i] = gathered[i] + d[i];
        float step = lr * share;
        theta[i] = theta[i] - step;
    }
}

INLINE void delayed_turn(const struct job *job, const float *restrict d, size_t at, size_t n) {
    float *restrict theta = job->theta + at, *restrict gathered = job->gathered + at;
    float *restrict momentum = job->momentum + at;
    float lr = job->lr, mu = job->mu, delay = job->delay;
    for (size_t i = 0; i < n; i++) {
        float share = d[i] / delay;
        float mean = gathered[i] + d[i];
        mean = mean / delay;
        float m = mu * momentum[i];
        m = m + mean;
        float ahead = mu * m;
        ahead = share + ahead;
        float step = lr * ahead;
        gathered[i] = 0.0f;
        momentum[i] = m;
        theta[i] = theta[i] - step;
    }
}

INLINE void step_unit(const struct job *job, const float *restrict d, size_t at, size_t n) {
    switch (job->optimizer) {
    case NESTEROV:
        nesterov(job, d, at, n);
        return;
    case AVERAGE:
        average(job, d, at, n);
        return;
    case DELAYED:
        delayed(job, d, at, n);
        return;
    default:
        delayed_turn(job, d, at, n);
    }
}
