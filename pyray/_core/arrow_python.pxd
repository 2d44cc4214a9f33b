# CPython's C interface with plain pointers, where the encoder and the decoder count references.

from cpython.object cimport PyObject

cdef extern from "Python.h":
    """
    #define PYRAY_TYPE(o) ((PyObject *)Py_TYPE(o))
    #define PYRAY_TYPE_OF(name) ((PyObject *)&name)
    #define PYRAY_IS_SUBTYPE(a, b) PyType_IsSubtype((PyTypeObject *)(a), (PyTypeObject *)(b))
    #define PYRAY_ASCII(o) ((const char *)PyUnicode_1BYTE_DATA(o))
    """
    PyObject* PYRAY_TYPE(PyObject*) noexcept
    PyObject* t_int "PYRAY_TYPE_OF(PyLong_Type)"
    PyObject* t_bool "PYRAY_TYPE_OF(PyBool_Type)"
    PyObject* t_float "PYRAY_TYPE_OF(PyFloat_Type)"
    PyObject* t_str "PYRAY_TYPE_OF(PyUnicode_Type)"
    PyObject* t_bytes "PYRAY_TYPE_OF(PyBytes_Type)"
    PyObject* t_list "PYRAY_TYPE_OF(PyList_Type)"
    PyObject* t_tuple "PYRAY_TYPE_OF(PyTuple_Type)"
    PyObject* t_dict "PYRAY_TYPE_OF(PyDict_Type)"
    PyObject* t_set "PYRAY_TYPE_OF(PySet_Type)"
    PyObject* t_frozenset "PYRAY_TYPE_OF(PyFrozenSet_Type)"
    PyObject* t_complex "PYRAY_TYPE_OF(PyComplex_Type)"
    PyObject* t_bytearray "PYRAY_TYPE_OF(PyByteArray_Type)"
    PyObject* Py_None
    PyObject* Py_True
    void Py_INCREF(PyObject*) noexcept
    void Py_XDECREF(PyObject*) noexcept
    double PyFloat_AS_DOUBLE(PyObject*) noexcept
    long long PyLong_AsLongLongAndOverflow(PyObject*, int* overflow) except? -1
    bint PyUnicode_IS_COMPACT_ASCII(PyObject*) noexcept
    const char* PYRAY_ASCII(PyObject*) noexcept
    Py_ssize_t PyUnicode_GET_LENGTH(PyObject*) noexcept
    const char* PyUnicode_AsUTF8AndSize(PyObject*, Py_ssize_t*) except NULL
    Py_ssize_t PyList_GET_SIZE(PyObject*) noexcept
    Py_ssize_t PyTuple_GET_SIZE(PyObject*) noexcept
    PyObject* PyList_GET_ITEM(PyObject*, Py_ssize_t) noexcept
    PyObject* PyTuple_GET_ITEM(PyObject*, Py_ssize_t) noexcept
    Py_ssize_t PyDict_Size(PyObject*) except -1
    int PyDict_Next(PyObject*, Py_ssize_t*, PyObject**, PyObject**) noexcept
    object PyUnicode_DecodeUTF8(const char*, Py_ssize_t, const char*)
    PyObject* PyLong_FromLongLong(long long) except NULL
    PyObject* PyFloat_FromDouble(double) except NULL
    PyObject* PyList_New(Py_ssize_t) except NULL
    PyObject* PyTuple_New(Py_ssize_t) except NULL
    PyObject* PyDict_New() except NULL
    PyObject* PySet_New(PyObject*) except NULL
    PyObject* PyFrozenSet_New(PyObject*) except NULL
    int PySet_Add(PyObject*, PyObject*) except -1
    int PyDict_SetItem(PyObject*, PyObject*, PyObject*) except -1
    void PyList_SET_ITEM(PyObject*, Py_ssize_t, PyObject*) noexcept
    void PyTuple_SET_ITEM(PyObject*, Py_ssize_t, PyObject*) noexcept
    bint PyUnicode_CheckExact(PyObject*) noexcept
    void PyUnicode_InternInPlace(PyObject**) noexcept
    void Py_DECREF(PyObject*) noexcept
    PyObject* Py_False
    bint PYRAY_IS_SUBTYPE(PyObject*, PyObject*) noexcept
