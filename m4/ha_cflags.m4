dnl SPDX-License-Identifier: Apache-2.0

dnl HA_APPEND_CFLAGS(VARIABLE, FLAGS): appends each flag that the compiler accepts, and
dnl substitutes the variable. -Werror is on during the probe, since clang only warns about flags
dnl that it does not know.
AC_DEFUN([HA_APPEND_CFLAGS], [
  AC_SUBST([$1])
  for ha_flag in $2; do
    AS_VAR_PUSHDEF([ha_cache], [ha_cv_cflag_$ha_flag])
    AC_CACHE_CHECK([whether $CC accepts $ha_flag], [ha_cache],
      [ha_saved_CFLAGS=$CFLAGS
       CFLAGS="$CFLAGS -Werror $ha_flag"
       AC_COMPILE_IFELSE([AC_LANG_PROGRAM()], [AS_VAR_SET([ha_cache], [yes])],
                         [AS_VAR_SET([ha_cache], [no])])
       CFLAGS=$ha_saved_CFLAGS])
    AS_VAR_IF([ha_cache], [yes], [$1="${$1:+$$1 }$ha_flag"])
    AS_VAR_POPDEF([ha_cache])
  done
])

dnl HA_SANITIZER: --enable-sanitizer=LIST, compiled and linked into everything. A finding ends the
dnl program, so that it fails a test.
AC_DEFUN([HA_SANITIZER], [
  AC_ARG_ENABLE([sanitizer],
    [AS_HELP_STRING([--enable-sanitizer=LIST],
                    [build with -fsanitize=LIST, for example address,undefined])],
    [], [enable_sanitizer=no])
  AS_CASE([$enable_sanitizer],
    [yes], [AC_MSG_ERROR([--enable-sanitizer needs a list, for example address,undefined])],
    [no], [SANITIZER_CFLAGS=],
    [SANITIZER_CFLAGS="-fsanitize=$enable_sanitizer -fno-sanitize-recover=all"
     AC_MSG_CHECKING([whether $CC links with $SANITIZER_CFLAGS])
     ha_saved_CFLAGS=$CFLAGS
     CFLAGS="$CFLAGS $SANITIZER_CFLAGS"
     AC_LINK_IFELSE([AC_LANG_PROGRAM()], [AC_MSG_RESULT([yes])],
       [AC_MSG_RESULT([no])
        AC_MSG_ERROR([--enable-sanitizer=$enable_sanitizer does not work with $CC])])
     CFLAGS=$ha_saved_CFLAGS])
  AC_SUBST([SANITIZER_CFLAGS])
])
