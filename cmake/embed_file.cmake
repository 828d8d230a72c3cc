# cmake -DFROM=FILE -DTO=FILE.cc -DNAME=kName -P embed_file.cmake: the file's text as a constant of kvship.
file(READ ${FROM} text)
file(WRITE ${TO} "namespace kvship {\nextern const char ${NAME}[];\nconst char ${NAME}[] = R\"embedded(${text})embedded\";\n}  // namespace kvship\n")
