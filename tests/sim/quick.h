/* What compiled code asks CPython for most, answered in place: attributes, `isinstance`, methods, and what a dictionary
 * or a list has under a text. Each answer is CPython's, out of CPython's own tables.
 *
 * Included before all else where what mypyc writes is compiled for the simulator (compiled.py). Owns two caches, by type
 * and name: an entry holds as long as the type has the version that it had, which CPython takes away when it or a base
 * of it is changed. What is not known, or not plain, is asked of CPython. Versions other than 3.11 have other tables:
 * there nothing is answered here.
 *
 * Sources, all of CPython 3.11: Objects/object.c (_PyObject_GenericGetAttrWithDict), Objects/abstract.c
 * (PyObject_IsInstance), Objects/call.c (PyObject_VectorcallMethod), Objects/dictobject.c (unicodekeys_lookup_unicode),
 * Objects/moduleobject.c (module_getattro). */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#if PY_VERSION_HEX >= 0x030B0000 && PY_VERSION_HEX < 0x030C0000 && SIZEOF_VOID_P == 8
#define Py_BUILD_CORE 1
#include <internal/pycore_dict.h>
#undef Py_BUILD_CORE

#define QUICK_BITS 12 /* so many places; a few hundred pairs are ever asked for, and two at one place only take turns */
#define QUICK_SIZE (1 << QUICK_BITS)

enum quick_kind { SLOT, GETTER, METHOD };

typedef struct {
    PyTypeObject *type;
    PyObject *name; /* held: no other text comes to stand at its address */
    unsigned int version;
    enum quick_kind kind;
    Py_ssize_t offset; /* of a SLOT */
    PyObject *found;   /* under this name in the type, which holds it */
} quick_name;

typedef struct {
    PyTypeObject *type;
    PyObject *of; /* held; a type */
    unsigned int version;
    int is_one;
} quick_kinship;

typedef struct {
    PyObject *name;   /* held */
    uint64_t version; /* of the module's dictionary, which no other has and this one never again */
    PyObject *value;  /* in that dictionary, which holds it */
} quick_member;

static quick_name quick_names[QUICK_SIZE];
static quick_member quick_members[QUICK_SIZE];
static quick_kinship quick_kinships[QUICK_SIZE];

static inline size_t quick_place(void *one, void *other) {
    uint64_t mixed = ((uint64_t)(uintptr_t)one * 31 + (uint64_t)(uintptr_t)other) * 0x9E3779B97F4A7C15u; /* 2^64 / phi */
    return mixed >> (64 - QUICK_BITS);
}

/* 0: it was changed, or never looked into. */
static inline unsigned int quick_version(PyTypeObject *type) {
    return PyType_HasFeature(type, Py_TPFLAGS_VALID_VERSION_TAG) ? type->tp_version_tag : 0;
}

static inline quick_name *quick_known(PyTypeObject *type, PyObject *name) {
    quick_name *known = &quick_names[quick_place(type, name)];
    int same = known->type == type && known->name == name && known->version == quick_version(type);
    return same && known->version ? known : NULL;
}

/* Remembers what this name is to objects of this type, if that is plain. Slots and getters stand before what an object
 * has of its own; before a method that would stand, so only objects that can have nothing of their own count. */
static void quick_learn(PyTypeObject *type, PyObject *name) {
    if (type->tp_getattro != PyObject_GenericGetAttr || !PyUnicode_CheckExact(name))
        return;
    PyObject *found = _PyType_Lookup(type, name);
    quick_name new = {type, name, quick_version(type), SLOT, 0, found};
    if (found == NULL || !new.version)
        return;
    if (Py_IS_TYPE(found, &PyMemberDescr_Type)) {
        PyMemberDef *member = ((PyMemberDescrObject *)found)->d_member;
        if (member->type != T_OBJECT_EX || member->flags & PY_AUDIT_READ)
            return;
        new.offset = member->offset;
    } else if (Py_IS_TYPE(found, &PyGetSetDescr_Type)) {
        if (((PyGetSetDescrObject *)found)->d_getset->get == NULL)
            return;
        new.kind = GETTER;
    } else {
        int bare = type->tp_dictoffset == 0 && !PyType_HasFeature(type, Py_TPFLAGS_MANAGED_DICT);
        if (!bare || !PyType_HasFeature(Py_TYPE(found), Py_TPFLAGS_METHOD_DESCRIPTOR))
            return;
        new.kind = METHOD;
    }
    quick_name *known = &quick_names[quick_place(type, name)];
    Py_INCREF(name);
    Py_XDECREF(known->name);
    *known = new;
}

static PyObject *quick_in_module(PyObject *module, PyObject *name) {
    PyObject *members = PyModule_GetDict(module);
    quick_member *known = &quick_members[quick_place(module, name)];
    if (known->name != name || known->version != ((PyDictObject *)members)->ma_version_tag) {
        PyObject *value = PyUnicode_CheckExact(name) ? PyDict_GetItemWithError(members, name) : NULL;
        if (value == NULL || _PyType_Lookup(&PyModule_Type, name) != NULL)
            return PyObject_GetAttr(module, name);
        Py_INCREF(name);
        Py_XDECREF(known->name);
        *known = (quick_member){name, ((PyDictObject *)members)->ma_version_tag, value};
    }
    return Py_NewRef(known->value);
}

/* A place in the code asks for one slot of one type, again and again. */
typedef struct {
    PyTypeObject *type;
    PyObject *name; /* held */
    unsigned int version;
    Py_ssize_t offset;
} quick_slot;

static inline PyObject *quick_attribute(PyObject *object, PyObject *name, quick_slot *here) {
    PyTypeObject *type = Py_TYPE(object);
    if (here->type == type && here->name == name && here->version && here->version == quick_version(type)) {
        PyObject *value = *(PyObject **)((char *)object + here->offset);
        if (value != NULL)
            return Py_NewRef(value);
    }
    quick_name *known = quick_known(type, name);
    if (known != NULL && known->kind == SLOT) {
        PyObject *value = *(PyObject **)((char *)object + known->offset);
        Py_INCREF(name);
        Py_XDECREF(here->name);
        *here = (quick_slot){type, name, known->version, known->offset};
        if (value != NULL)
            return Py_NewRef(value);
    } else if (known != NULL && known->kind == GETTER) {
        PyGetSetDef *pair = ((PyGetSetDescrObject *)known->found)->d_getset;
        return pair->get(object, pair->closure);
    } else if (PyModule_CheckExact(object)) {
        return quick_in_module(object, name);
    } else if (known == NULL) {
        quick_learn(type, name);
    }
    return PyObject_GetAttr(object, name);
}

static inline PyObject *quick_call_method(PyObject *name, PyObject *const *arguments, size_t count, PyObject *words) {
    quick_name *known = quick_known(Py_TYPE(arguments[0]), name);
    if (known != NULL && known->kind == METHOD) /* the place before the first argument is not the callee's to use */
        return PyObject_Vectorcall(known->found, arguments, count & ~PY_VECTORCALL_ARGUMENTS_OFFSET, words);
    if (known == NULL)
        quick_learn(Py_TYPE(arguments[0]), name);
    return PyObject_VectorcallMethod(name, arguments, count, words);
}

/* Is it a type, and one that asks for its bases alone? */
static int quick_plain(PyObject *of) {
    static PyObject *check, *of_all;
    if (check == NULL) {
        check = PyUnicode_InternFromString("__instancecheck__");
        of_all = check ? _PyType_Lookup(&PyType_Type, check) : NULL;
    }
    return PyType_Check(of) && of_all != NULL && _PyType_Lookup(Py_TYPE(of), check) == of_all;
}

/* `is_one` of an object by CPython's word. One that says itself to be of another class (`__class__`) is not plain. */
static int quick_learn_kinship(PyObject *object, PyObject *of, int is_one) {
    static PyObject *word;
    PyTypeObject *type = Py_TYPE(object);
    if (word == NULL && (word = PyUnicode_InternFromString("__class__")) == NULL)
        return -1;
    int itself = type->tp_getattro == PyObject_GenericGetAttr && _PyType_Lookup(type, word) != NULL &&
                 _PyType_Lookup(type, word) == _PyType_Lookup(&PyBaseObject_Type, word);
    if (is_one >= 0 && itself && quick_version(type) && quick_plain(of)) {
        quick_kinship *known = &quick_kinships[quick_place(type, of)];
        Py_INCREF(of);
        Py_XDECREF(known->of);
        *known = (quick_kinship){type, of, quick_version(type), is_one};
    }
    return is_one;
}

static inline int quick_is_instance(PyObject *object, PyObject *of) {
    PyTypeObject *type = Py_TYPE(object);
    if ((PyObject *)type == of)
        return 1;
    quick_kinship *known = &quick_kinships[quick_place(type, of)];
    if (known->type == type && known->of == of && known->version && known->version == quick_version(type))
        return known->is_one;
    return quick_learn_kinship(object, of, PyObject_IsInstance(object, of));
}

static inline Py_ssize_t quick_index(PyDictKeysObject *keys, size_t place) {
    const char *indices = keys->dk_indices;
    int log = keys->dk_log2_size;
    return log < 8 ? ((int8_t *)indices)[place]
                   : log < 16 ? ((int16_t *)indices)[place] : ((int32_t *)indices)[place];
}

static inline int quick_same_text(PyObject *one, PyObject *other) {
    Py_ssize_t length = PyUnicode_GET_LENGTH(one);
    int kind = PyUnicode_KIND(one);
    return length == PyUnicode_GET_LENGTH(other) && kind == (int)PyUnicode_KIND(other) &&
           memcmp(PyUnicode_DATA(one), PyUnicode_DATA(other), length * kind) == 0;
}

/* Borrowed; NULL without an exception where there is none. */
static inline PyObject *quick_item(PyObject *dictionary, PyObject *key) {
    PyDictObject *of = (PyDictObject *)dictionary;
    PyDictKeysObject *keys = of->ma_keys;
    Py_hash_t hash = PyUnicode_CheckExact(key) ? ((PyASCIIObject *)key)->hash : -1;
    if (hash == -1 || !DK_IS_UNICODE(keys) || DK_LOG_SIZE(keys) >= 31)
        return PyDict_GetItemWithError(dictionary, key);
    PyDictUnicodeEntry *entries = DK_UNICODE_ENTRIES(keys);
    size_t mask = DK_SIZE(keys) - 1, place = (size_t)hash & mask, rest = hash;
    for (;;) {
        Py_ssize_t index = quick_index(keys, place);
        if (index >= 0) {
            PyObject *there = entries[index].me_key;
            if (there == key || (((PyASCIIObject *)there)->hash == hash && quick_same_text(there, key)))
                return of->ma_values ? of->ma_values->values[index] : entries[index].me_value;
        } else if (index == DKIX_EMPTY) {
            return NULL;
        }
        rest >>= 5; /* PERTURB_SHIFT */
        place = (place * 5 + rest + 1) & mask;
    }
}

static inline int quick_has(PyObject *dictionary, PyObject *key) {
    if (!PyUnicode_CheckExact(key) || ((PyASCIIObject *)key)->hash == -1)
        return PyDict_Contains(dictionary, key);
    PyObject *value = quick_item(dictionary, key);
    return value != NULL ? 1 : PyErr_Occurred() ? -1 : 0;
}

static inline int quick_is_in(PyObject *sequence, PyObject *value) {
    if (!PyList_CheckExact(sequence) || !PyUnicode_CheckExact(value))
        return PySequence_Contains(sequence, value);
    for (Py_ssize_t place = 0; place < PyList_GET_SIZE(sequence); place++) {
        PyObject *there = PyList_GET_ITEM(sequence, place);
        if (there == value)
            return 1;
        if (!PyUnicode_CheckExact(there))
            return PySequence_Contains(sequence, value);
        if (quick_same_text(there, value))
            return 1;
    }
    return 0;
}

#define PyObject_GetAttr(object, name)              \
    ({                                              \
        static quick_slot here;                     \
        quick_attribute(object, name, &here);       \
    })
#define PyObject_VectorcallMethod(name, arguments, count, words) quick_call_method(name, arguments, count, words)
#define PyObject_IsInstance(object, of) quick_is_instance(object, of)
#define PyDict_GetItemWithError(dictionary, key) quick_item(dictionary, key)
#define PyDict_Contains(dictionary, key) quick_has(dictionary, key)
#define PySequence_Contains(sequence, value) quick_is_in(sequence, value)
#endif
