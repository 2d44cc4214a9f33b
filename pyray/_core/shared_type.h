/* The class SharedArray: an ndarray that looks at memory which several processes write to.
 *
 * A subclass in C, because every view of such an array has to be found again when it is sealed, and
 * making a view is something that loops do.  It adds three words to the ndarray, after whatever
 * numpy's own struct has in it, whose size is asked for only when the class is made.
 *
 * An instance that turns out not to look at shared memory (the copy of one, what a ufunc allocates)
 * becomes a plain ndarray before anybody has seen it.
 */
#ifndef PYRAY_SHARED_TYPE_H
#define PYRAY_SHARED_TYPE_H

#include <Python.h>
#define NPY_NO_DEPRECATED_API NPY_1_7_API_VERSION
#include <numpy/arrayobject.h>

typedef struct {
    PyObject *region;      /* borrowed: the array's base keeps it; NULL: looks at none */
    PyObject *previous;    /* the region's other views, borrowed */
    PyObject *next;
} pr_view;

static Py_ssize_t pr_view_at = 0;
#define PR_VIEW(array) ((pr_view *)((char *)(array) + pr_view_at))

/* What the module does about it. */
static int (*pr_join)(PyObject *array) = NULL;     /* 1: it is a view of a region, and noted there */
static void (*pr_leave)(PyObject *array) = NULL;
static void (*pr_lend)(PyObject *array, int change) = NULL; /* a buffer of it is taken, or given back */

static inline PyObject *pr_base(PyObject *array) { return PyArray_BASE((PyArrayObject *)array); }

/* Hold another base.  numpy has no call for that once there is one. */
static inline void pr_set_base(PyObject *array, PyObject *base) {
    PyArrayObject_fields *fields = (PyArrayObject_fields *)array;
    PyObject *old = fields->base;
    Py_INCREF(base);
    fields->base = base;
    Py_XDECREF(old);
}

static PyObject *pr_finalize(PyObject *self, PyObject *Py_UNUSED(from)) {
    PyTypeObject *type = Py_TYPE(self);
    /* numpy calls this once for each array, but anybody else may too. */
    if (PR_VIEW(self)->region == NULL && !pr_join(self)) {
        /* Safe, since a plain ndarray is freed in the same way; its last words are never used. */
        Py_SET_TYPE(self, &PyArray_Type);
        Py_DECREF(type);
    }
    Py_RETURN_NONE;
}

static void pr_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    if (PR_VIEW(self)->region != NULL) pr_leave(self);
    PyArray_Type.tp_dealloc(self);
    Py_DECREF(type);
}

static int pr_getbuffer(PyObject *self, Py_buffer *view, int flags) {
    int failed = PyArray_Type.tp_as_buffer->bf_getbuffer(self, view, flags);
    if (!failed && PR_VIEW(self)->region != NULL) pr_lend(self, 1);
    return failed;
}

static void pr_releasebuffer(PyObject *self, Py_buffer *Py_UNUSED(view)) {
    if (PR_VIEW(self)->region != NULL) pr_lend(self, -1);
}

/* A row of a structured array is a scalar that writes through to the array that it was taken from. Of
 * a plain one it is noticed by whoever seals. */
static PyObject *pr_row(PyObject *self, PyObject *got, PyObject *key, Py_ssize_t index) {
    PyObject *plain;
    if (got == NULL || !PyArray_IsScalar(got, Void)) return got;
    Py_DECREF(got);
    plain = PyArray_View((PyArrayObject *)self, NULL, &PyArray_Type);
    if (plain == NULL) return NULL;
    got = key != NULL ? PyArray_Type.tp_as_mapping->mp_subscript(plain, key)
                      : PyArray_Type.tp_as_sequence->sq_item(plain, index);
    Py_DECREF(plain);
    return got;
}

static PyObject *pr_subscript(PyObject *self, PyObject *key) {
    return pr_row(self, PyArray_Type.tp_as_mapping->mp_subscript(self, key), key, 0);
}

static PyObject *pr_item(PyObject *self, Py_ssize_t index) {
    return pr_row(self, PyArray_Type.tp_as_sequence->sq_item(self, index), NULL, index);
}

static PyMethodDef pr_methods[] = {
    {"__array_finalize__", pr_finalize, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyObject *pr_make_type(const char *doc) {
    PyType_Slot slots[] = {
        {Py_tp_dealloc, (void *)pr_dealloc},
        {Py_tp_methods, pr_methods},
        {Py_mp_subscript, (void *)pr_subscript},
        {Py_sq_item, (void *)pr_item},
        {Py_bf_getbuffer, (void *)pr_getbuffer},
        {Py_bf_releasebuffer, (void *)pr_releasebuffer},
        {Py_tp_doc, (void *)doc},
        {0, NULL},
    };
    PyType_Spec spec = {"pyray.shared.SharedArray", 0, 0, Py_TPFLAGS_DEFAULT, slots};
    PyObject *bases = PyTuple_Pack(1, (PyObject *)&PyArray_Type), *made;
    if (bases == NULL) return NULL;
    pr_view_at = (PyArray_Type.tp_basicsize + 7) / 8 * 8;
    spec.basicsize = (int)(pr_view_at + (Py_ssize_t)sizeof(pr_view));
    made = PyType_FromSpecWithBases(&spec, bases);
    Py_DECREF(bases);
    return made;
}

#endif
