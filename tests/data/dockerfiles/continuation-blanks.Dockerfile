FROM base
RUN echo a\  
   b > /out
